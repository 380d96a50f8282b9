// swift-tools-version: 6.2
import PackageDescription

// One flavour of flags for every Swift target, so that `swift build` and `swift test` share one build
// (see docs/decisions/0001-one-release-build.md).
let plain: [SwiftSetting] = [.unsafeFlags(["-O", "-enable-testing"])]
let fenced: [SwiftSetting] = plain + [.strictMemorySafety()]
let staticProgram: [LinkerSetting] = [.unsafeFlags(["-static-executable"])]
let native: [CSetting] = [.unsafeFlags(["-O2", "-Wall", "-Wextra"])]

/// A library target of ours; `floor` documents its place and TidyTests checks it (ARCHITECTURE.md).
func library(
    _ name: String, _ dependencies: [Target.Dependency] = [], exclude: [String] = [],
    settings: [SwiftSetting] = []
) -> Target {
    .target(name: name, dependencies: dependencies, exclude: exclude, swiftSettings: fenced + settings)
}

let package = Package(
    name: "ospite",
    products: [
        .executable(name: "ospite", targets: ["ospite"]),
        .executable(name: "ospite-vmm", targets: ["ospite-vmm"]),
        .executable(name: "ospite-display", targets: ["ospite-display"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
    ],
    targets: [
        // Floor 0: C shims.
        .target(name: "CLinux", cSettings: native),
        .target(name: "CKVM", cSettings: native),
        .target(name: "CGate", cSettings: native),
        .target(name: "COracle", cSettings: native),
        .target(name: "CZlib", cSettings: native, linkerSettings: [.linkedLibrary("z")]),
        .target(name: "CLZ4", cSettings: native, linkerSettings: [.linkedLibrary("lz4")]),
        .target(name: "CJPEG", cSettings: native, linkerSettings: [.linkedLibrary("jpeg")]),
        // Floor 1: the host, and bytes.
        library("LinuxHost", ["CLinux"]),
        library("ByteLayout"),
        library("StateCodec"),
        library("Compression", ["CZlib", "CJPEG"]),
        // Floor 2: vocabulary.
        library("GuestMemory", ["LinuxHost", "ByteLayout"]),
        library("X86Architecture"),
        library("DeviceModel", ["GuestMemory", "StateCodec"]),
        library("ScreenSurface", ["LinuxHost", "ByteLayout"]),
        // Floor 3: engines.
        library("VCPUEngine", ["X86Architecture", "DeviceModel"]),
        library(
            "SoftCPU", ["VCPUEngine", "LinuxHost", "CGate"], exclude: ["Decode/Instructions.table"],
            // Confined to one thread each (docs/decisions/0004-translated-code.md).
            settings: [.unsafeFlags(["-enforce-exclusivity=unchecked"])]),
        library("KVMEngine", ["VCPUEngine", "LinuxHost", "CKVM"]),
        // Floor 3: devices.
        library("ChipsetDevices", ["DeviceModel", "X86Architecture", "ByteLayout", "VCPUEngine"]),
        library("PCIBus", ["DeviceModel", "ByteLayout"]),
        library("DisplayDevices", ["PCIBus", "DeviceModel", "LinuxHost", "ScreenSurface"]),
        library("Q35Chipset", ["PCIBus", "DeviceModel", "GuestMemory"]),
        library("Virtio", ["PCIBus", "DeviceModel", "ByteLayout"]),
        library("BlockStorage", ["GuestMemory"]),
        library("SCSICommands", ["BlockStorage", "ByteLayout"]),
        library(
            "StorageDevices",
            ["BlockStorage", "PCIBus", "DeviceModel", "GuestMemory", "LinuxHost", "ByteLayout"]),
        library("DiskImages", ["LinuxHost"]),
        library("CharacterBackends", ["LinuxHost"]),
        library("GDBRemote", ["X86Architecture"]),
        library("RFB", ["ScreenSurface", "Compression", "ByteLayout"]),
        library(
            "VirtioDevices",
            [
                "Virtio", "PCIBus", "BlockStorage", "SCSICommands", "DisplayDevices", "ScreenSurface",
                "DeviceModel", "ByteLayout",
            ]),
        library(
            "USBDevices",
            ["PCIBus", "BlockStorage", "SCSICommands", "DeviceModel", "GuestMemory", "ByteLayout"]),
        // Floor 3: firmware.
        library("FirmwareTables", ["GuestMemory", "ByteLayout"]),
        library("BootLoaders", ["GuestMemory", "X86Architecture", "ByteLayout", "CLZ4"]),
        // Floor 4: the machine.
        library("MachineSpec"),
        library("MachineControl", ["LinuxHost", "ByteLayout", "MachineSpec"]),
        library("VMMSandbox", ["LinuxHost", "CLinux", "MachineSpec"]),
        library(
            "Machine",
            [
                "MachineSpec", "MachineControl", "SoftCPU", "KVMEngine", "ChipsetDevices",
                "PCIBus", "Q35Chipset", "DisplayDevices", "ScreenSurface", "BlockStorage",
                "StorageDevices", "VirtioDevices", "USBDevices", "GDBRemote",
                "FirmwareTables", "BootLoaders", "CharacterBackends", "DiskImages",
            ]),
        // Floor 5: what needs packages of others.
        .target(
            name: "ViewerGateway",
            dependencies: [
                "LinuxHost", "RFB",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOEmbedded", package: "swift-nio"),
                .product(name: "NIOTLS", package: "swift-nio"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"),
            ],
            swiftSettings: fenced),
        // Floor 6: programs.
        .executableTarget(
            name: "ospite-vmm",
            dependencies: ["Machine", "MachineControl", "MachineSpec", "VMMSandbox", "LinuxHost", "CLinux"],
            swiftSettings: fenced, linkerSettings: staticProgram),
        .executableTarget(
            name: "ospite-display",
            dependencies: ["RFB", "ScreenSurface", "VMMSandbox", "MachineSpec", "LinuxHost", "CLinux"],
            swiftSettings: fenced, linkerSettings: staticProgram),
        .executableTarget(
            name: "ospite",
            dependencies: [
                "CLinux", "LinuxHost", "MachineSpec", "MachineControl", "ScreenSurface", "RFB", "Compression",
                "ByteLayout", "ViewerGateway",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: fenced),
        // Tests and tools.
        .target(
            name: "TestKit", dependencies: ["DeviceModel", "SoftCPU", "LinuxHost", "Compression"],
            swiftSettings: fenced),
        .executableTarget(
            name: "ospite-oracle", dependencies: ["SoftCPU", "TestKit", "CGate", "COracle"],
            swiftSettings: fenced),
        .executableTarget(name: "table-generator", swiftSettings: plain),
        .testTarget(name: "TidyTests", swiftSettings: plain),
        .testTarget(
            name: "ProgramTests",
            dependencies: [
                "ospite", "CLinux", "LinuxHost", "MachineSpec", "MachineControl", "VMMSandbox", "Compression",
            ],
            swiftSettings: plain),
        .testTarget(
            name: "SoftCPUTests", dependencies: ["SoftCPU", "TestKit", "ospite-oracle"],
            exclude: ["Golden"], swiftSettings: plain),
        .testTarget(
            name: "DeviceTests",
            dependencies: [
                "ChipsetDevices", "PCIBus", "Q35Chipset", "DisplayDevices", "ScreenSurface", "Virtio",
                "VirtioDevices",
                "BlockStorage", "StorageDevices", "USBDevices",
                "Machine", "TestKit", "StateCodec", "LinuxHost", "MachineControl", "MachineSpec",
            ],
            swiftSettings: plain),
        .testTarget(
            name: "RFBTests", dependencies: ["RFB", "ScreenSurface", "Compression", "ByteLayout", "TestKit"],
            swiftSettings: plain),
        .testTarget(
            name: "GatewayTests",
            dependencies: [
                "ViewerGateway", "LinuxHost", "TestKit",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOEmbedded", package: "swift-nio"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"),
            ],
            swiftSettings: plain),
        .testTarget(
            name: "GDBTests",
            dependencies: ["GDBRemote", "X86Architecture"],
            swiftSettings: plain),
        .testTarget(
            name: "HostTests",
            dependencies: [
                "LinuxHost", "ByteLayout", "StateCodec", "GuestMemory", "DiskImages", "CharacterBackends",
                "KVMEngine",
            ],
            swiftSettings: plain),
        .testTarget(
            name: "FirmwareTests",
            dependencies: ["FirmwareTables", "BootLoaders", "GuestMemory", "X86Architecture", "ByteLayout"],
            exclude: ["Golden"], swiftSettings: plain),
        .testTarget(
            name: "BootTests",
            dependencies: ["MachineSpec", "MachineControl", "LinuxHost", "Compression", "TestKit"],
            swiftSettings: plain),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .gnu11
)

/// The floors of the house: a target imports targets of its own floor or below. One row per target of
/// Package.swift; a new target gets a row here.
// swift-format-ignore
let floorTable: [String: Int] = [
    // C shims
    "CKVM": 0, "CLinux": 0, "CGate": 0, "COracle": 0, "CZlib": 0, "CLZ4": 0, "CJPEG": 0,
    // the host, and bytes
    "LinuxHost": 1, "ByteLayout": 1, "StateCodec": 1, "Compression": 1,
    // vocabulary
    "GuestMemory": 2, "X86Architecture": 2, "DeviceModel": 2, "ScreenSurface": 2,
    // engines
    "VCPUEngine": 3, "SoftCPU": 3, "KVMEngine": 3,
    // devices
    "ChipsetDevices": 3, "PCIBus": 3, "Q35Chipset": 3, "DisplayDevices": 3, "Virtio": 3, "VirtioDevices": 3,
    "BlockStorage": 3, "SCSICommands": 3, "StorageDevices": 3, "USBDevices": 3,
    // back ends
    "DiskImages": 3, "CharacterBackends": 3, "RFB": 3, "GDBRemote": 3,
    // firmware
    "FirmwareTables": 3, "BootLoaders": 3,
    // the machine
    "MachineSpec": 4, "MachineControl": 4, "VMMSandbox": 4, "Machine": 4,
    // with packages of others
    "ViewerGateway": 5,
    // programs and tools
    "ospite": 6, "ospite-vmm": 6, "ospite-display": 6, "ospite-oracle": 6, "table-generator": 6, "TestKit": 6,
]

/// Names that hold a banned word because a specification does: IA32_APIC_BASE (Intel SDM vol. 4), the common
/// configuration structure (VIRTIO 1.3 §4.1.4.3).
let specificationNames: Set<String> = ["APICBase", "CommonRegister"]

/// The first floor that may use Foundation, Dispatch and packages of others.
let firstFreeFloor = 5

/// What a target below `firstFreeFloor` may import that is not ours.
let systemModules: Set<String> = ["Glibc", "Synchronization", "Builtin"]

/// Targets without any contact with the host: values in, values out.
let pureTargets: Set<String> = ["ByteLayout", "StateCodec", "X86Architecture", "MachineSpec"]

/// Programs that must start small, though they are on the top floor.
let smallPrograms: Set<String> = ["ospite-vmm", "ospite-display"]

/// Files and folders (ending in a slash) that may use `unsafe`. Each such file argues its uses in `SAFETY:`
/// comments. Keep the list short: an entry is one more place where memory can go wrong.
let unsafePlaces: [String] = [
    "Sources/LinuxHost/",
    "Sources/GuestMemory/",
    "Sources/Compression/",
    "Sources/ScreenSurface/SurfaceMemory.swift",
    "Sources/ScreenSurface/ScreenLink.swift",
    "Sources/SoftCPU/",
    "Sources/KVMEngine/",
    "Sources/BootLoaders/LZ4Stream.swift",
    "Sources/DeviceModel/PortBus.swift",
    "Sources/DeviceModel/MMIOBus.swift",
    "Sources/DisplayDevices/VideoMemory.swift",
    "Sources/CharacterBackends/",
    "Sources/DiskImages/",
    "Sources/BlockStorage/HostBuffer.swift",
    "Sources/TestKit/",
    "Sources/ospite-oracle/",
    "Sources/Machine/",
    "Sources/MachineControl/ControlSocket.swift",
    "Sources/VMMSandbox/Sandbox.swift",
    "Sources/VMMSandbox/ProcessPrivileges.swift",
    "Sources/ospite-vmm/",
    "Sources/ospite-display/",
    "Sources/ospite/HostCall.swift",
    "Sources/ospite/ChildProcess.swift",
]

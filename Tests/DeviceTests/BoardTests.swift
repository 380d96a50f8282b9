import DeviceModel
import Foundation
import LinuxHost
import Synchronization
import Testing

@testable import Machine
@testable import MachineControl
@testable import MachineSpec
@testable import PCIBus
@testable import StateCodec

@Suite(.serialized) struct BoardTests {
    /// Gives every PCI function its addresses and lets it reach memory, as firmware does.
    private func assignAddresses(_ board: Board) throws -> [ClosedRange<UInt64>] {
        guard let bridge = board.bridge else { return [] }
        try bridge.assignResources(
            memoryWindow: 0xC000_0000..<0xD800_0000, ioWindow: 0xC000..<0x1_0000,
            memory64Window: 0x8_0000_0000..<0x9_0000_0000)
        for place in bridge.functions {
            let command = place.function.readConfig(offset: 4, count: 2)
            place.function.writeConfig(offset: 4, count: 2, value: command | 4)
        }
        return bridge.functions.flatMap { Self.memory(of: $0.function) }
    }

    /// Where a function's registers are in memory.
    private static func memory(of function: PCIFunction) -> [ClosedRange<UInt64>] {
        function.layout.bars.enumerated().compactMap { bar, layout in
            guard let layout, layout.kind != .io else { return nil }
            let low = UInt64(function.readConfig(offset: 0x10 + 4 * bar, count: 4)) & ~0xF
            let high =
                function.layout.bars[bar]?.kind == .memory64
                ? UInt64(function.readConfig(offset: 0x14 + 4 * bar, count: 4)) : 0
            let start = high << 32 | low
            return start == 0 ? nil : start...start + (layout.size - 1)
        }
    }

    /// Accesses to every port and the registers of every memory-mapped device, from a seed.
    private func disturb(_ board: Board, seed: UInt64) throws {
        var random = ChipsetRandom(seed: seed)
        let widths: [AccessWidth] = [.byte, .word, .dword]
        let registers = try assignAddresses(board)
        #expect(registers.isEmpty == (board.bridge == nil))
        for _ in 0..<4000 {
            let port = UInt16(
                truncatingIfNeeded: random.below(4) == 0 ? random.below(0x10000) : random.below(0x700))
            let width = widths[random.below(3)]
            if random.chance(2) {
                _ = board.platform.portRead(port, width: width)
            } else {
                board.platform.portWrite(
                    port, width: width, value: UInt32(truncatingIfNeeded: random.value()))
            }
            let page =
                [0xFED0_0000, 0xFEC0_0000, 0xE000_0000, 0xC000_0000, 0xD000_0000][random.below(5)] as UInt64
            let address = page + UInt64(random.below(0x4000)) & ~7
            if random.chance(2) {
                _ = board.platform.memoryRead(address, width: .dword)
            } else {
                board.platform.memoryWrite(address, width: .dword, value: random.value() & 0xFFFF_FFFF)
            }
            if !registers.isEmpty {
                let place = registers[random.below(registers.count)]
                let offset = UInt64(random.below(min(place.count, 0x4000))) & ~3
                board.platform.memoryWrite(
                    place.lowerBound + offset, width: .dword, value: random.value() & 0xFFFF_FFFF)
                _ = board.platform.memoryRead(place.lowerBound + offset, width: .dword)
            }
            let apic = board.apics[random.below(2)]
            apic.writePage(
                offset: UInt32(random.below(0x40) * 16), width: .dword,
                value: UInt32(truncatingIfNeeded: random.value()))
        }
    }

    @Test(arguments: MachineType.allCases, [1, 2, 3, 4, 5] as [UInt64])
    func `every device of a board saves, restores into another board, and saves equal`(
        type: MachineType, seed: UInt64
    ) throws {
        let first = try BoardBench.full(type, at: BoardFiles.first),
            second = try BoardBench.full(type, at: BoardFiles.first + 20)
        try disturb(first, seed: seed)
        first.clock.pause()
        second.clock.pause()
        for device in first.devices + second.devices { device.pause() }
        // A restored machine goes on at the time at which it was saved.
        second.clock.setNow(first.clock.now)
        #expect(first.devices.map { BoardBench.kind($0) } == second.devices.map { BoardBench.kind($0) })
        for (device, twin) in zip(first.devices, second.devices) {
            let state = try BoardBench.saved(device)
            try BoardBench.restore(twin, state)
            #expect(try BoardBench.savesEqual(twin, state), "\(BoardBench.kind(device)), seed \(seed)")
        }
        BoardBench.close(first)
        BoardBench.close(second)
    }

    @Test(arguments: MachineType.allCases, [6, 7] as [UInt64])
    func `a damaged state is refused or taken, and never traps`(type: MachineType, seed: UInt64) throws {
        let board = try BoardBench.full(type, at: BoardFiles.first)
        try disturb(board, seed: seed)
        board.clock.pause()
        for device in board.devices { device.pause() }
        var random = ChipsetRandom(seed: seed)
        for device in board.devices {
            let state = try BoardBench.saved(device)
            for _ in 0..<60 {
                var damaged = Array(state[try StateFormat.open(state)])
                guard !damaged.isEmpty else { break }
                for _ in 0...random.below(3) {
                    damaged[random.below(damaged.count)] = UInt8(truncatingIfNeeded: random.value())
                }
                try? BoardBench.restore(device, StateFormat.seal(damaged))
            }
            device.reset()
        }
        BoardBench.close(board)
    }

    @Test func `a SATA controller can be found with and without the chipset's bridges`() throws {
        func places(hasFirmware: Bool) throws -> [Int] {
            var spec = try BoardBench.spec()
            spec.drives = [DriveSpec()]
            if hasFirmware { spec.firmware = FirmwareSpec(image: ResourceIndex(0)) }
            let file = try Descriptor.memory("firmware", size: 1 << 16)
            let board = try Board(
                spec: spec, resources: BoardFiles.resources([file], at: BoardFiles.first),
                tscFrequency: 1_000_000_000, report: { _ in })
            defer { BoardBench.close(board) }
            return try #require(board.bridge).functions.filter { $0.slot == 31 }.map(\.number)
        }
        #expect(try places(hasFirmware: false) == [0])
        #expect(try places(hasFirmware: true) == [0, 2, 3])
    }

    @Test func `the catalog names every kind once`() {
        #expect(Set(deviceCatalog.map(\.kind)).count == deviceCatalog.count)
    }

    @Test func `without a floppy disk nobody answers at the ports of its controller and of its DMA`() throws {
        let floppy = Array(0x3F0...0x3F7) as [UInt16]
        let dma = Array(0x00...0x0F) + Array(0x81...0x8F) + Array(0xC0...0xDF) as [UInt16]
        func answers(hasFloppy: Bool) throws -> (board: Board, ports: [UInt16]) {
            var spec = try BoardBench.spec()
            if hasFloppy { spec.floppies = [DiskSpec(image: ResourceIndex(0), byteCount: 1440 << 10)] }
            let file = try Descriptor.memory("floppy", size: 1440 << 10)
            let board = try Board(
                spec: spec, resources: BoardFiles.resources([file], at: BoardFiles.first),
                tscFrequency: 1_000_000_000, report: { _ in })
            let ports = (floppy + dma).filter { board.platform.portRead($0, width: .byte) & 0xFF != 0xFF }
            return (board, ports)
        }
        let with = try answers(hasFloppy: true), without = try answers(hasFloppy: false)
        #expect(with.ports.contains(0x3F4) && with.ports.contains(0x08) && with.ports.contains(0x81))
        #expect(without.ports == [])
        // Nor does anybody hear what is written to them.
        for port in floppy + dma { without.board.platform.portWrite(port, width: .byte, value: 0x1C) }
        #expect(
            (floppy + dma).allSatisfy { without.board.platform.portRead($0, width: .byte) & 0xFF == 0xFF })
        let kinds = Set(without.board.devices.map { BoardBench.kind($0) })
        #expect(!kinds.contains("dma") && !kinds.contains("floppy"))
        BoardBench.close(with.board)
        BoardBench.close(without.board)
    }

    @Test func `a full board has a device of every kind`() throws {
        let board = try BoardBench.full(at: BoardFiles.first)
        let kinds = Set(board.devices.map { BoardBench.kind($0) })
        #expect(deviceCatalog.map(\.kind).filter { !kinds.contains($0) } == [])
        BoardBench.close(board)
    }

    @Test func `the micro board has what a PC has, without PCI, firmware and the old controllers`() throws {
        let pc = try BoardBench.full(at: BoardFiles.first)
        let micro = try BoardBench.full(.micro, at: BoardFiles.first + 20)
        let kinds = { (board: Board) in Set(board.devices.map { BoardBench.kind($0) }) }
        let old: Set = ["pic", "pit", "hpet", "i8042", "dma", "floppy"]
        let firmware: Set = ["fw-cfg", "firmware-log", "flash"]
        let pci: Set = [
            "pci-host-bridge", "shadow-memory", "lpc-bridge", "ahci", "nvme", "ide", "virtio-scsi", "vga",
            "xhci", "smbus", "pcie-root-port",
        ]
        #expect(kinds(pc).subtracting(kinds(micro)) == old.union(firmware).union(pci))
        #expect(kinds(micro).isSubset(of: kinds(pc)))
        BoardBench.close(pc)
        BoardBench.close(micro)
    }

    @Test(arguments: [false, true])
    func `every disk that a micro machine may have finds a line, and one more does not`(
        hasConsole: Bool
    ) throws {
        var spec = try BoardBench.spec()
        spec.machineType = .micro
        spec.console = hasConsole ? SerialBackend.none : nil
        let most = MachineSpec.mostMicroDisks - (hasConsole ? 1 : 0)
        for count in [most, most + 1] {
            spec.disks = (0..<UInt8(count)).map {
                DiskSpec(image: ResourceIndex($0), byteCount: 1 << 20)
            }
            let files = try (0..<count).map { _ in try Descriptor.memory("disk", size: 1 << 20) }
            let resources = BoardFiles.resources(files, at: BoardFiles.first)
            let board = {
                try Board(
                    spec: spec, resources: resources, tscFrequency: 1_000_000_000, report: { _ in })
            }
            if count == most {
                #expect(throws: Never.self) { try spec.validate(resourceCount: count) }
                BoardBench.close(try board())
            } else {
                #expect(throws: SpecError.self) { try spec.validate(resourceCount: count) }
                #expect(throws: BoardError.self) { _ = try board() }
            }
        }
    }

    // MARK: Accelerators

    static let slow = HostAcceleration.measured(instructionsPerSecond: 745_000, isFast: false)
    static let fast = HostAcceleration.measured(instructionsPerSecond: 3e9, isFast: true)

    @Test func `auto takes a fast KVM and says why it leaves a slow one`() throws {
        #expect(try AcceleratorChoice.choose(.auto, host: .absent) == .init(usesKVM: false))
        #expect(try AcceleratorChoice.choose(.auto, host: Self.fast) == .init(usesKVM: true))
        #expect(
            try AcceleratorChoice.choose(.auto, host: Self.slow)
                == .init(
                    usesKVM: false,
                    notice: "KVM on this host only emulates (0.7 M instructions/s); using the software CPU."))
        let broken = try AcceleratorChoice.choose(.auto, host: .unusable(reason: "it is version 11"))
        #expect(!broken.usesKVM && broken.notice?.contains("it is version 11") == true)
        #expect(try !AcceleratorChoice.choose(.auto, host: .failing(reason: "shutdown")).usesKVM)
    }

    @Test func `kvm takes any KVM, soft none`() throws {
        let slow = try AcceleratorChoice.choose(.kvm, host: Self.slow)
        #expect(slow.usesKVM && slow.notice?.hasPrefix("KVM on this host only emulates") == true)
        #expect(try AcceleratorChoice.choose(.kvm, host: Self.fast) == .init(usesKVM: true))
        #expect(try AcceleratorChoice.choose(.kvm, host: .failing(reason: "shutdown")).usesKVM)
        for host in [.absent, .unusable(reason: "it is version 11")] as [HostAcceleration] {
            #expect(throws: BoardError.self) { try AcceleratorChoice.choose(.kvm, host: host) }
        }
        for host in [.absent, Self.slow, Self.fast] {
            #expect(try AcceleratorChoice.choose(.soft, host: host) == .init(usesKVM: false))
        }
    }
}

public import DeviceModel
public import LinuxHost
public import PCIBus
internal import Synchronization

/// A VGA with Bochs' extension, as QEMU's "standard VGA" is on PCI (QEMU docs/specs/standard-vga): BAR 0 is
/// the video memory, BAR 2 has the registers once more, and the expansion ROM is the video BIOS. It answers
/// the legacy ports and A0000h to BFFFFh whatever its PCI command register says.
///
/// Confinement: any thread.
public final class VGA: PortDevice, MemoryMappedDevice, ScreenSource {
    public static let kind = "vga"
    public let ports: [ClosedRange<UInt16>] = [0x1CE...0x1D1, 0x3B0...0x3DF]
    /// Where the board maps the legacy window.
    public static let windowStart: UInt64 = 0xA_0000, windowSize: UInt64 = 0x2_0000

    public struct Saved: Codable, Sendable, Equatable {
        /// Nil: the function is another device's, and saved with that.
        var function: PCIFunction.Saved?
        var registers: VGAState
        var memory: [VideoMemory.SavedPage]
    }

    private let core: VGACore
    private let clock: any MachineClock
    private let renderer: Mutex<VGARenderer>
    /// Nil when its BARs are those of another device's function.
    public let function: PCIFunction?
    public var memory: VideoMemory { core.memory }
    /// What answers at BARs 0 and 2.
    public var handler: any PCIFunctionHandler { core }
    /// A VGA-compatible display controller.
    public static let classCode: UInt32 = 0x03_00_00
    public static let bars: [BARLayout?] = [
        BARLayout(.memory32, size: UInt64(VGACore.memorySize), prefetchable: true), nil,
        BARLayout(.memory32, size: 0x1000),
    ]

    /// - Parameters:
    ///   - rom: the video BIOS; empty for none.
    ///   - hasFunction: it is a PCI device by itself, and not a part of another one.
    public init(_ context: DeviceContext, rom: [UInt8], hasFunction: Bool = true) throws(HostError) {
        let memory = try VideoMemory(size: VGACore.memorySize)
        core = VGACore(memory: memory)
        clock = context.clock
        renderer = Mutex(VGARenderer(pageCount: memory.pageCount))
        guard hasFunction else {
            function = nil
            return
        }
        function = PCIFunction(
            PCIFunctionLayout(
                identity: PCIIdentity(
                    vendor: 0x1234, device: 0x1111, classCode: Self.classCode, revision: 2,
                    subsystemVendor: 0x1AF4, subsystem: 0x1100),
                bars: Self.bars, rom: rom),
            interrupts: PCIInterrupts(vectors: 0, target: context.msi), handler: core)
    }

    // MARK: Legacy ports and memory

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        if port <= 0x1D1 { return UInt32(core.readBochsPort(port, width)) | 0xFFFF_0000 }
        var value: UInt32 = 0
        for byte in 0..<min(width.bytes, 4) {
            value |= UInt32(core.readPort(port &+ UInt16(byte))) << UInt32(8 * byte)
        }
        return value
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        if port <= 0x1D1 { return core.writeBochsPort(port, width, UInt16(truncatingIfNeeded: value)) }
        for byte in 0..<min(width.bytes, 4) {
            core.writePort(port &+ UInt16(byte), UInt8(truncatingIfNeeded: value >> UInt32(8 * byte)))
        }
    }

    public func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        core.readWindow(Int(offset), width)
    }

    public func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        core.writeWindow(Int(offset), width, value)
    }

    /// A copy of the registers, for who draws the screen.
    var registers: VGAState { core.registers }

    public func draw(on canvas: inout ScreenCanvas) {
        let registers = registers, time = clock.now
        renderer.withLock { $0.draw(registers, memory, time: time, on: &canvas) }
    }

    // MARK: Lifecycle

    public func reset() {
        core.reset()
        function?.reset()
    }

    public func save() -> Saved {
        Saved(function: function?.save(), registers: core.registers, memory: memory.savedPages())
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard (saved.function == nil) == (function == nil) else {
            throw RestoreError(Self.kind, "another kind of adapter")
        }
        guard core.restore(saved.registers) else { throw RestoreError(Self.kind, "a register") }
        guard memory.restore(saved.memory) else { throw RestoreError(Self.kind, "a page of memory") }
        if let function, let state = saved.function { try function.restore(state) }
    }
}

/// The VGA behind its ports and BARs.
final class VGACore: PCIFunctionHandler {
    static let memorySize = 16 << 20
    let memory: VideoMemory
    private let state = Mutex(VGAState(memory: memorySize))

    /// Offsets in BAR 2.
    private enum Registers {
        static let legacy: Range<UInt64> = 0x400..<0x420, bochs: Range<UInt64> = 0x500..<0x516
        static let firstPort: UInt16 = 0x3C0
    }

    init(memory: VideoMemory) { self.memory = memory }

    var registers: VGAState { state.withLock { $0 } }

    func readPort(_ port: UInt16) -> UInt8 { state.withLock { $0.read(port) } }
    func writePort(_ port: UInt16, _ value: UInt8) { state.withLock { $0.write(port, value) } }

    func readBochsPort(_ port: UInt16, _ width: AccessWidth) -> UInt16 {
        guard width != .byte else { return 0xFFFF }
        return state.withLock { state in
            switch port {
            case BochsRegister.indexPort: state.bochsIndex
            case BochsRegister.dataPort, BochsRegister.alignedDataPort:
                state.readBochs(Int(state.bochsIndex))
            default: 0xFFFF
            }
        }
    }

    func writeBochsPort(_ port: UInt16, _ width: AccessWidth, _ value: UInt16) {
        guard width != .byte else { return }
        switch port {
        case BochsRegister.indexPort: state.withLock { $0.bochsIndex = value }
        case BochsRegister.dataPort, BochsRegister.alignedDataPort:
            writeBochs(state.withLock { Int($0.bochsIndex) }, value)
        default: break
        }
    }

    private func writeBochs(_ index: Int, _ value: UInt16) {
        if state.withLock({ $0.writeBochs(index, value) }) { memory.clear() }
    }

    func readWindow(_ offset: Int, _ width: AccessWidth) -> UInt64 {
        state.withLock { state in
            var value: UInt64 = 0
            for byte in 0..<width.bytes {
                value |= UInt64(state.readMemory(offset + byte, memory)) << UInt64(8 * byte)
            }
            return value
        }
    }

    func writeWindow(_ offset: Int, _ width: AccessWidth, _ value: UInt64) {
        state.withLock { state in
            for byte in 0..<width.bytes {
                state.writeMemory(
                    offset + byte, UInt8(truncatingIfNeeded: value >> UInt64(8 * byte)), memory)
            }
        }
    }

    // MARK: BARs

    func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        if bar == 0 { return memory.load(offset, width) }
        if Registers.bochs.contains(offset) {
            return state.withLock { UInt64($0.readBochs(Int(offset - Registers.bochs.lowerBound) / 2)) }
        }
        var value: UInt64 = 0
        for byte in 0..<UInt64(width.bytes) where Registers.legacy.contains(offset + byte) {
            let port = Registers.firstPort + UInt16(offset + byte - Registers.legacy.lowerBound)
            value |= UInt64(readPort(port)) << (8 * byte)
        }
        return value
    }

    func directMemory(bar: Int) -> (any DirectMemory)? { bar == 0 ? memory : nil }

    func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        if bar == 0 { return memory.store(value, offset, width) }
        if Registers.bochs.contains(offset) {
            guard width == .word, offset & 1 == 0 else { return }
            return writeBochs(
                Int(offset - Registers.bochs.lowerBound) / 2, UInt16(truncatingIfNeeded: value))
        }
        for byte in 0..<UInt64(width.bytes) where Registers.legacy.contains(offset + byte) {
            let port = Registers.firstPort + UInt16(offset + byte - Registers.legacy.lowerBound)
            writePort(port, UInt8(truncatingIfNeeded: value >> (8 * byte)))
        }
    }

    // MARK: Lifecycle

    func reset() {
        state.withLock { $0 = VGAState(memory: Self.memorySize) }
        memory.clear()
    }

    /// False, and no change, when the state is none of a VGA's.
    func restore(_ saved: VGAState) -> Bool {
        guard saved.isSound, saved.bochs[BochsRegister.memory] == UInt16(Self.memorySize >> 16) else {
            return false
        }
        state.withLock { $0 = saved }
        return true
    }
}

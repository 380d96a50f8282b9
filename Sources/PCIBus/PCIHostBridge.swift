public import DeviceModel
internal import Synchronization

/// The machine's PCI bus 0: 32 slots of 8 functions behind configuration mechanism 1 (ports 0xCF8 and 0xCFC,
/// PCI 3.0 §3.2.2.3.2) and ECAM (PCI Express 4.0 §7.2.2), and the way to the buses behind its root ports.
/// Functions that do not exist read as ones.
///
/// Confinement: any thread. Functions are added while the machine is built, or plugged later.
public final class PCIHostBridge: PortDevice, MemoryMappedDevice {
    public static let kind = "pci-host-bridge"
    /// Where the machine maps the 256 MiB of ECAM.
    public static let ecamAddress: UInt64 = 0xE000_0000
    public static let ecamSize: UInt64 = 256 << 20
    /// The first global system interrupt of the INTx pins; four lines from here are shared by all slots.
    public static let firstLine = 16
    static let slots = 32
    static let functionsPerSlot = 8

    /// A PCI Express host bridge that no system needs a driver for.
    public static let defaultIdentity = PCIIdentity(
        vendor: 0x1B36, device: 0x0008, classCode: 0x06_00_00, subsystemVendor: 0x1AF4, subsystem: 0x1100)

    public struct Saved: Codable, Sendable, Equatable {
        public var address: UInt32
        public var bridge: PCIFunction.Saved
    }

    private struct State {
        var address: UInt32 = 0
        var functions = [PCIFunction?](repeating: nil, count: slots * functionsPerSlot)
        var rootPorts: [(port: PCIRootPort, slot: Int)] = []
        var ecam: (window: Range<UInt64>, handle: Int)?
    }

    private let state = Mutex(State())
    private let mmio: MMIOBus
    private let portBus: PortBus
    private let router: PinRouter
    /// Function 0:0.0.
    public let bridge: PCIFunction

    /// Puts itself onto `portBus` and `mmio`, with the bridge in slot 0.
    public convenience init(context: DeviceContext, mmio: MMIOBus, portBus: PortBus) {
        self.init(
            context: context, mmio: mmio, portBus: portBus,
            layout: PCIFunctionLayout(identity: Self.defaultIdentity), handler: NoRegisters())
        placeECAM(Self.ecamAddress..<Self.ecamAddress + Self.ecamSize)
    }

    /// With a bridge of a certain kind, which decides where ECAM is.
    public init(
        context: DeviceContext, mmio: MMIOBus, portBus: PortBus, layout: PCIFunctionLayout,
        handler: any PCIFunctionHandler
    ) {
        self.mmio = mmio
        self.portBus = portBus
        router = PinRouter(context.lines)
        bridge = PCIFunction(
            layout, interrupts: PCIInterrupts(vectors: 0, target: context.msi), handler: handler)
        insert(bridge, slot: 0)
        portBus.attach(self)
    }

    /// Moves ECAM, or takes it away.
    public func placeECAM(_ window: Range<UInt64>?) {
        state.withLock { state in
            guard state.ecam?.window != window else { return }
            if let ecam = state.ecam { mmio.unmap(ecam.handle) }
            state.ecam = window.map { window in
                let size = window.upperBound - window.lowerBound
                return (window, mmio.map(self, at: window.lowerBound, size: size))
            }
        }
    }

    /// Where ECAM is now.
    public var ecamWindow: Range<UInt64>? { state.withLock { $0.ecam?.window } }

    /// The interrupt line of pin `pin` (0 for INTA) of `slot`; the ACPI routing table says the same.
    public static func line(slot: Int, pin: Int) -> Int { firstLine + ((slot + pin) & 3) }

    /// Puts `function` into a free place of bus 0.
    public func insert(_ function: PCIFunction, slot: Int, function number: Int = 0) {
        precondition(
            (0..<Self.slots).contains(slot) && (0..<Self.functionsPerSlot).contains(number), "no such slot")
        let place = slot * Self.functionsPerSlot + number
        let first = state.withLock { state -> PCIFunction? in
            precondition(state.functions[place] == nil, "the slot is taken")
            state.functions[place] = function
            return number == 0 ? nil : state.functions[slot * Self.functionsPerSlot]
        }
        // Software looks at functions 1 to 7 only when function 0 says that there are some (§6.2.1).
        if number != 0 { function.setMultifunction() }
        first?.setMultifunction()
        if number == 0, hasSiblings(slot) { function.setMultifunction() }
        let pin = Int(function.layout.interruptPin)
        let line = pin == 0 ? nil : InterruptLine(router, Self.line(slot: slot, pin: pin - 1))
        function.connect(mmio: mmio, portBus: portBus, pin: line)
    }

    /// Puts a root port into a free place of bus 0.
    public func insert(_ port: PCIRootPort, slot: Int, function number: Int = 0) {
        insert(port.function, slot: slot, function: number)
        port.bus.connect(mmio: mmio, portBus: portBus)
        state.withLock { $0.rootPorts.append((port, slot)) }
    }

    /// Puts `function` behind a root port that has its place and nothing behind it.
    public func insert(_ function: PCIFunction, behind port: PCIRootPort) {
        guard let slot = rootPorts.first(where: { $0.port === port })?.slot else {
            preconditionFailure("the root port has no place yet")
        }
        function.becomeEndpoint()
        let line = Self.line(behind: slot, function).map { InterruptLine(router, $0) }
        port.bus.insert(function, pin: line)
    }

    /// The interrupt line of a function behind a root port in `slot`: the pin that it has as device 0, which
    /// a bridge turns by the device's number (Bridge Architecture 1.2 §9.1), on the port's own slot.
    static func line(behind slot: Int, _ function: PCIFunction) -> Int? {
        let pin = Int(function.layout.interruptPin)
        return pin == 0 ? nil : line(slot: slot, pin: pin - 1)
    }

    /// The root ports in the order in which they came, with their slots.
    var rootPorts: [(port: PCIRootPort, slot: Int)] { state.withLock { $0.rootPorts } }

    private func hasSiblings(_ slot: Int) -> Bool {
        let first = slot * Self.functionsPerSlot
        return state.withLock { state in
            state.functions[(first + 1)..<(first + Self.functionsPerSlot)].contains { $0 != nil }
        }
    }

    /// Takes a function out of its slot and off the buses.
    public func remove(slot: Int, function number: Int = 0) {
        guard (0..<Self.slots).contains(slot), (0..<Self.functionsPerSlot).contains(number) else { return }
        let removed = state.withLock { state -> PCIFunction? in
            let place = slot * Self.functionsPerSlot + number
            defer { state.functions[place] = nil }
            return state.functions[place]
        }
        removed?.disconnect()
    }

    /// Every function with its slot and function number, in ascending order.
    public var functions: [(slot: Int, number: Int, function: PCIFunction)] {
        state.withLock { state in
            state.functions.enumerated().compactMap { place, function in
                function.map { (place / Self.functionsPerSlot, place % Self.functionsPerSlot, $0) }
            }
        }
    }

    /// `place` holds the bus in bits 15..8, then device and function. Of ports that claim the same bus the
    /// first one has it.
    private func function(at place: Int) -> PCIFunction? {
        let bus = place >> 8
        guard bus != 0 else { return state.withLock { $0.functions[place] } }
        for (port, _) in rootPorts {
            if case .function(let found) = port.bus.target(bus: bus, place: place & 0xFF) { return found }
        }
        return nil
    }

    // MARK: Configuration mechanism 1

    /// 0xCF9 in between belongs to the reset control register of the chipset.
    public var ports: [ClosedRange<UInt16>] { [0xCF8...0xCF8, 0xCFC...0xCFF] }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        if port == 0xCF8 {
            return width == .dword ? state.withLock { $0.address } : ~0
        }
        guard let (function, register, count) = selected(port, width) else { return ~0 }
        guard count < width.bytes else { return function.readConfig(offset: register, count: count) }
        // The part of the access beyond port 0xCFF belongs to nobody.
        return function.readConfig(offset: register, count: count) | ~0 << UInt32(8 * count)
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        if port == 0xCF8 {
            if width == .dword { state.withLock { $0.address = value & 0x80FF_FFFC } }
            return
        }
        guard let (function, register, count) = selected(port, width) else { return }
        function.writeConfig(offset: register, count: count, value: value)
    }

    /// The function that the address register selects, the register of this port, and how many bytes of the
    /// access are inside the four data ports.
    private func selected(_ port: UInt16, _ width: AccessWidth) -> (PCIFunction, Int, Int)? {
        guard (0xCFC...0xCFF).contains(port) else { return nil }
        let byte = Int(port & 3)
        let address = state.withLock { $0.address }
        guard address >> 31 == 1, let function = function(at: Int((address >> 8) & 0xFFFF)) else {
            return nil
        }
        return (function, Int(address & 0xFC) + byte, min(width.bytes, 4 - byte))
    }

    // MARK: ECAM

    public func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        guard offset < Self.ecamSize, let function = function(at: Int(offset >> 12)) else {
            return width.mask
        }
        let register = Int(offset & 0xFFF)
        let low = UInt64(function.readConfig(offset: register, count: min(width.bytes, 4)))
        guard width == .qword else { return low }
        return low | UInt64(function.readConfig(offset: register + 4, count: 4)) << 32
    }

    public func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        guard offset < Self.ecamSize, let function = function(at: Int(offset >> 12)) else { return }
        let register = Int(offset & 0xFFF)
        function.writeConfig(
            offset: register, count: min(width.bytes, 4), value: UInt32(truncatingIfNeeded: value))
        if width == .qword {
            function.writeConfig(
                offset: register + 4, count: 4, value: UInt32(truncatingIfNeeded: value >> 32))
        }
    }

    // MARK: Lifecycle

    /// Resets the address register and the bridge; the other functions are reset as devices of their own.
    public func reset() {
        state.withLock { $0.address = 0 }
        bridge.reset()
    }

    public func save() -> Saved { Saved(address: state.withLock { $0.address }, bridge: bridge.save()) }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.address & ~0x80FF_FFFC == 0 else {
            throw RestoreError(Self.kind, "reserved bits in the address register")
        }
        try bridge.restore(saved.bridge)
        state.withLock { $0.address = saved.address }
    }
}

/// A function without BARs.
private final class NoRegisters: PCIFunctionHandler {
    func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64 { width.mask }
    func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64) {}
}

/// Wired OR of the INTx pins that share a line: the line is high while any function drives it.
private final class PinRouter: InterruptSink {
    private let sink: any InterruptSink
    private let counts = Mutex([Int](repeating: 0, count: 4))

    init(_ sink: any InterruptSink) { self.sink = sink }

    /// Functions report transitions only, so a count is enough.
    func setLine(_ line: Int, asserted: Bool) {
        counts.withLock { counts in
            let index = (line - PCIHostBridge.firstLine) & 3
            counts[index] += asserted ? 1 : -1
            if counts[index] == (asserted ? 1 : 0) { sink.setLine(line, asserted: asserted) }
        }
    }
}

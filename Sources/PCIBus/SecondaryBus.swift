internal import DeviceModel
internal import Synchronization

/// What is behind a root port: buses of its own for the one device of its link, and windows in the buses
/// above it, which follow the port's registers. Windows that overlap those of another port, or devices, are
/// as BARs that do (`PCIFunction`).
///
/// Confinement: any thread. Its lock comes before the functions' and the buses'.
final class SecondaryBus: PCIFunctionHandler {
    private struct State {
        var mmio: MMIOBus?
        var portBus: PortBus?
        var routing = BridgeRouting()
        /// Handles of the open windows.
        var io: Int?
        var memory: Int?
        var prefetchable: Int?
        var function: PCIFunction?
    }
    private let state = Mutex(State())
    let mmio = MMIOBus(), ports = PortBus()

    /// The port is on these buses now.
    func connect(mmio: MMIOBus, portBus: PortBus) {
        state.withLock { state in
            state.mmio = mmio
            state.portBus = portBus
            Self.route(&state, to: BridgeRouting(), self)
        }
    }

    /// Makes `function` device 0 of the bus, where alone a link has one.
    func insert(_ function: PCIFunction, pin: InterruptLine?) {
        state.withLock { state in
            precondition(state.function == nil, "there is a device behind the port")
            state.function = function
            function.interrupts.setForwarding(state.routing.isMaster)
        }
        function.connect(mmio: mmio, portBus: ports, pin: pin)
    }

    var function: PCIFunction? { state.withLock { $0.function } }

    /// Where a configuration access goes that is not for bus 0.
    enum Target {
        /// Not behind this port.
        case elsewhere
        /// Behind it; nil when nothing is there.
        case function(PCIFunction?)
    }

    /// `place` is the device's number times eight, plus the function's. An access to a bus further behind
    /// finds nobody: there is no bridge on ours.
    func target(bus: Int, place: Int) -> Target {
        state.withLock { state in
            guard let buses = state.routing.buses, buses.contains(bus) else { return .elsewhere }
            return .function(bus == buses.lowerBound && place == 0 ? state.function : nil)
        }
    }

    /// The number of the bus; nil before it has one.
    var number: Int? { state.withLock { $0.routing.buses?.lowerBound } }

    // MARK: Registers of the port

    func configurationChanged(_ range: Range<Int>, of function: PCIFunction) {
        let command = ConfigRegister.command..<ConfigRegister.command + 2
        guard range.overlaps(command) || range.overlaps(BridgeRegister.routing) else { return }
        state.withLock { state in
            let routing = BridgeRouting { function.readConfig(offset: $0, count: $1) }
            Self.route(&state, to: routing, self)
        }
    }

    func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64 { width.mask }
    func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64) {}

    private static func route(_ state: inout State, to routing: BridgeRouting, _ bus: SecondaryBus) {
        let old = state.routing
        state.routing = routing
        if let ports = state.portBus, old.io != routing.io {
            if let handle = state.io { ports.unmap(handle) }
            state.io = routing.io.map { range in
                ports.map(BridgeWindow(0, bus), UInt16(range.lowerBound)...UInt16(range.upperBound))
            }
        }
        if let mmio = state.mmio {
            if old.memory != routing.memory {
                replace(&state.memory, by: routing.memory, on: mmio, bus)
            }
            if old.prefetchable != routing.prefetchable {
                replace(&state.prefetchable, by: routing.prefetchable, on: mmio, bus)
            }
        }
        guard old.isMaster != routing.isMaster else { return }
        state.function?.interrupts.setForwarding(routing.isMaster)
    }

    private static func replace(
        _ handle: inout Int?, by range: ClosedRange<UInt64>?, on mmio: MMIOBus, _ bus: SecondaryBus
    ) {
        if let handle { mmio.unmap(handle) }
        handle = range.map { range in
            // The last byte of the address space stays outside, where no BAR is.
            let size = (range.upperBound - range.lowerBound).addingReportingOverflow(1)
            return mmio.map(
                BridgeWindow(range.lowerBound, bus), at: range.lowerBound,
                size: size.overflow ? .max : size.partialValue)
        }
    }
}

/// A window of a bridge: passes accesses on with their addresses.
private final class BridgeWindow: MemoryMappedDevice, PortDevice {
    static let kind = "pci-bridge-window"
    struct Saved: Codable, Sendable, Equatable {}

    private let base: UInt64
    private let mmio: MMIOBus
    private let portBus: PortBus

    init(_ base: UInt64, _ bus: SecondaryBus) {
        self.base = base
        mmio = bus.mmio
        portBus = bus.ports
    }

    func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        mmio.read(base &+ offset, width: width)
    }
    func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        mmio.write(base &+ offset, width: width, value: value)
    }

    /// Windows move, so no port belongs to one from the start.
    var ports: [ClosedRange<UInt16>] { [] }
    func read(port: UInt16, width: AccessWidth) -> UInt32 { portBus.read(port: port, width: width) }
    func write(port: UInt16, width: AccessWidth, value: UInt32) {
        portBus.write(port: port, width: width, value: value)
    }

    func reset() {}
    func save() -> Saved { Saved() }
    func restore(_ saved: Saved) throws(RestoreError) {}
}

internal import BlockStorage
public import DeviceModel
internal import GuestMemory
public import PCIBus
internal import Synchronization

/// The SATA controller of Intel's ICH9 in AHCI mode at 0:31.2 (data sheet 316972 §15; Serial ATA AHCI 1.3.1):
/// six ports with disks and CD drives. BAR 5 is its registers; it interrupts by INTA.
///
/// Confinement: any thread. Its lock comes before the ports'.
public final class AHCIController: Device {
    public static let kind = "ahci"
    public static let slot = 31, functionNumber = 2
    public static let portCount = 6

    public struct Saved: Codable, Sendable, Equatable {
        var function: PCIFunction.Saved
        var control: UInt32
        var interruptStatus: UInt32
        var ports: [AHCIPort.Saved]
        var trays: [CDTray.Saved?]
    }

    private let core: AHCICore
    private let trays: [CDTray?]
    public let function: PCIFunction

    public init(_ context: DeviceContext, _ attachments: [SATAAttachment]) {
        precondition(attachments.count <= Self.portCount, "six ports")
        let interrupts = PCIInterrupts(vectors: 0, target: context.msi)
        var devices: [(any SATADevice)?] = attachments.map(\.device)
        trays = attachments.map(\.tray)
        while devices.count < Self.portCount { devices.append(nil) }
        core = AHCICore(context.memory, devices, interrupts)
        core.connect()
        function = PCIFunction(
            PCIFunctionLayout(
                identity: PCIIdentity(
                    vendor: 0x8086, device: 0x2922, classCode: 0x01_06_01, revision: 2,
                    subsystemVendor: 0x1AF4, subsystem: 0x1100),
                bars: [nil, nil, nil, nil, nil, BARLayout(.memory32, size: HBARegister.size)],
                interruptPin: 1,
                // Address map register: AHCI mode, §15.1.26.
                registers: [PCIRegister(0x90, UInt8(0x40), writable: 0)]),
            interrupts: interrupts, handler: core)
    }

    public func reset() {
        core.reset()
        function.reset()
    }

    public func pause() { core.pause() }
    public func resume() { core.resume() }

    public func save() -> Saved {
        let (control, status) = core.saved
        return Saved(
            function: function.save(), control: control, interruptStatus: status,
            ports: core.ports.map(\.saved), trays: trays.map { $0?.saved })
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.ports.count == Self.portCount, saved.trays.count == trays.count,
            saved.control & ~(HBAControl.ahciEnable | HBAControl.interruptEnable) == 0,
            saved.interruptStatus >> UInt32(Self.portCount) == 0
        else { throw RestoreError(Self.kind, "the number of ports, or a register of the adapter") }
        for (tray, state) in zip(trays, saved.trays) where (tray == nil) != (state == nil) {
            throw RestoreError(Self.kind, "a disk where a CD drive is")
        }
        for (port, registers) in zip(core.ports, saved.ports) {
            guard port.restore(registers) else { throw RestoreError(Self.kind, "a register of a port") }
        }
        for (tray, state) in zip(trays, saved.trays) {
            if let tray, let state, !tray.restore(state) { throw RestoreError(Self.kind, "a CD drive") }
        }
        core.restore(control: saved.control, interruptStatus: saved.interruptStatus)
        try function.restore(saved.function)
    }
}

/// The registers of the adapter.
final class AHCICore: PCIFunctionHandler {
    private struct State {
        var control = HBAControl.ahciEnable
        var interruptStatus: UInt32 = 0
    }
    private final class Ports: Sendable {
        let all: [AHCIPort]
        init(_ all: [AHCIPort]) { self.all = all }
    }
    private let state = Mutex(State())
    private let interrupts: PCIInterrupts
    private let memory: GuestMemory
    private let devices: [(any SATADevice)?]
    private let wiring = AtomicLazyReference<Ports>()

    init(_ memory: GuestMemory, _ devices: [(any SATADevice)?], _ interrupts: PCIInterrupts) {
        self.memory = memory
        self.devices = devices
        self.interrupts = interrupts
    }

    /// The ports tell their adapter of interrupts.
    func connect() {
        let ports = devices.map { device in
            AHCIPort(memory, device: device) { [weak self] in self?.updateInterrupt() }
        }
        _ = wiring.storeIfNil(Ports(ports))
    }

    var ports: [AHCIPort] { wiring.load()?.all ?? [] }

    /// A port with something to say sets its bit; only the guest clears it, §3.1.3.
    private func updateInterrupt() {
        state.withLock { state in
            for (index, port) in ports.enumerated() where port.requestsInterrupt {
                state.interruptStatus |= 1 << UInt32(index)
            }
            let enabled = state.control & HBAControl.interruptEnable != 0
            interrupts.setPin(enabled && state.interruptStatus != 0)
        }
    }

    // MARK: Registers

    func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        let low = UInt64(read(offset & ~3)) >> (8 * (offset & 3))
        guard width == .qword else { return low & width.mask }
        return low | UInt64(read((offset & ~3) + 4)) << 32
    }

    private func read(_ offset: UInt64) -> UInt32 {
        if offset >= HBARegister.firstPort {
            let place = offset - HBARegister.firstPort, number = Int(place / HBARegister.portSize)
            return ports.indices.contains(number) ? ports[number].read(place % HBARegister.portSize) : 0
        }
        switch offset {
        case HBARegister.capabilities:
            return HBACapability.addresses64 | HBACapability.queueing | HBACapability.ahciOnly
                | HBACapability.commandListOverride | HBACapability.speed | HBACapability.slots
                | UInt32(AHCIController.portCount - 1)
        case HBARegister.control: return state.withLock { $0.control }
        case HBARegister.interruptStatus: return state.withLock { $0.interruptStatus }
        case HBARegister.portsImplemented: return 1 << UInt32(AHCIController.portCount) - 1
        case HBARegister.version: return 0x0001_0300
        default: return 0
        }
    }

    /// The registers take aligned dwords; two of them at once are two.
    func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        guard offset & 3 == 0, width == .dword || width == .qword else { return }
        write(offset, UInt32(truncatingIfNeeded: value))
        if width == .qword { write(offset + 4, UInt32(truncatingIfNeeded: value >> 32)) }
    }

    private func write(_ offset: UInt64, _ value: UInt32) {
        if offset >= HBARegister.firstPort {
            let place = offset - HBARegister.firstPort, number = Int(place / HBARegister.portSize)
            if ports.indices.contains(number) { ports[number].write(place % HBARegister.portSize, value) }
            return
        }
        switch offset {
        case HBARegister.control:
            if value & HBAControl.reset != 0 { return reset() }
            state.withLock { state in
                state.control = HBAControl.ahciEnable | value & HBAControl.interruptEnable
            }
        case HBARegister.interruptStatus: state.withLock { $0.interruptStatus &= ~value }
        default: return
        }
        updateInterrupt()
    }

    // MARK: Lifecycle

    func reset() {
        state.withLock { $0 = State() }
        for port in ports { port.reset() }
        state.withLock { $0.interruptStatus = 0 }
        updateInterrupt()
    }

    func pause() { for port in ports { port.pause() } }
    func resume() { for port in ports { port.resume() } }

    var saved: (control: UInt32, interruptStatus: UInt32) {
        state.withLock { ($0.control, $0.interruptStatus) }
    }

    func restore(control: UInt32, interruptStatus: UInt32) {
        state.withLock {
            $0 = State(control: control | HBAControl.ahciEnable, interruptStatus: interruptStatus)
        }
        updateInterrupt()
    }
}

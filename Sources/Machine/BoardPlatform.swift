internal import ChipsetDevices
internal import DeviceModel
internal import Synchronization
internal import VCPUEngine

/// The board as the vCPUs see it: ports, device memory, the legacy interrupt controller, time.
final class BoardPlatform: VCPUPlatform {
    let ports = PortBus()
    let mmio = MMIOBus()
    private let clock: HostClock
    private let wiring = AtomicLazyReference<Wiring>()

    private final class Wiring: Sendable {
        let pic: PIC8259Pair?
        let apics: [LocalAPIC]
        init(pic: PIC8259Pair?, apics: [LocalAPIC]) {
            self.pic = pic
            self.apics = apics
        }
    }

    init(clock: HostClock) { self.clock = clock }

    /// Once, before a vCPU runs. `pic` is nil on a board without 8259s.
    func connect(pic: PIC8259Pair?, apics: [LocalAPIC]) {
        _ = wiring.storeIfNil(Wiring(pic: pic, apics: apics))
    }

    func portRead(_ port: UInt16, width: AccessWidth) -> UInt32 { ports.read(port: port, width: width) }
    func portWrite(_ port: UInt16, width: AccessWidth, value: UInt32) {
        ports.write(port: port, width: width, value: value)
    }
    func memoryRead(_ address: UInt64, width: AccessWidth) -> UInt64 { mmio.read(address, width: width) }
    func memoryWrite(_ address: UInt64, width: AccessWidth, value: UInt64) {
        mmio.write(address, width: width, value: value)
    }
    func directPage(at page: UInt64, storing: Bool) -> UInt { mmio.directPage(at: page, storing: storing) }
    func addDirectMemoryUser(_ user: any DirectMemoryUser) { mmio.directAccess.add(user) }
    func acknowledgeExternalInterrupt() -> UInt8? { wiring.load()?.pic?.acknowledge() }
    func hasExternalInterrupt(vcpu: Int) -> Bool {
        guard vcpu == 0, let wiring = wiring.load(), let pic = wiring.pic else { return false }
        return pic.output && wiring.apics[0].acceptsExternalInterrupt
    }
    var now: UInt64 { clock.now }
    var wallClock: UInt64 { clock.wallClock }
}

/// What a local APIC knows of its vCPU before there is one, and after it changed engines.
final class VCPULink: Sendable {
    private final class Holder: Sendable {
        let vcpu: any VCPU
        init(_ vcpu: any VCPU) { self.vcpu = vcpu }
    }
    private let first = AtomicLazyReference<Holder>()
    /// The one that took over. A machine changes engines at most once.
    private let second = AtomicLazyReference<Holder>()

    /// Once per engine, before the vCPU runs.
    func connect(_ vcpu: any VCPU) {
        let holder = Holder(vcpu)
        if first.storeIfNil(holder) !== holder { _ = second.storeIfNil(holder) }
    }
    private var vcpu: (any VCPU)? { (second.load() ?? first.load())?.vcpu }
    func wake() { vcpu?.wake() }
    var timeStampCounter: UInt64 { vcpu?.timeStampCounter ?? 0 }
}

public import DeviceModel
public import X86Architecture

/// The local APIC as a software engine sees it. One per vCPU; see ChipsetDevices.LocalAPIC. Any thread.
public protocol LocalInterruptController: AnyObject, Sendable {
    /// The vector that would be delivered now, honouring ISR and TPR; nil when there is none.
    func pendingVector() -> UInt8?
    /// Moves the highest deliverable vector from requested to in service and returns it.
    func acknowledge() -> UInt8?
    /// CR8 / task priority bits 7..4.
    var taskPriority: UInt8 { get set }
    /// IA32_APIC_BASE.
    var apicBase: UInt64 { get }
    /// Returns false where the architecture raises #GP (reserved bits, illegal mode transitions).
    func setAPICBase(_ value: UInt64) -> Bool
    /// x2APIC MSR 0x800..0x8FF and IA32_TSC_DEADLINE; nil and false mean #GP.
    func readMSR(_ number: UInt32) -> UInt64?
    func writeMSR(_ number: UInt32, _ value: UInt64) -> Bool
    /// xAPIC register page; `offset` is 0..0xFFF.
    func readPage(offset: UInt32, width: AccessWidth) -> UInt32
    func writePage(offset: UInt32, width: AccessWidth, value: UInt32)
    /// Whether an NMI, INIT or SIPI waits, and takes it. SIPI carries its vector.
    func takeSignal() -> ProcessorSignal?
    /// Ends the interrupt in service: the guest said so in its own memory.
    func endOfInterrupt()

    // MARK: Ends that the guest notes in its own memory (KVM's PV EOI). All on the vCPU's thread.

    /// After `acknowledge`: whether nobody has to hear of the end of that interrupt before
    /// `wantsEndOfInterrupt`. Then there is no further vector until `endOfInterrupt` or `keepInService`.
    func deferEndOfInterrupt() -> Bool
    /// Another interrupt has come since, and `wake` was called.
    var wantsEndOfInterrupt: Bool { get }
    /// The interrupt has not ended yet; the guest will end it by the register.
    func keepInService()
}

extension LocalInterruptController {
    public func deferEndOfInterrupt() -> Bool { false }
    public var wantsEndOfInterrupt: Bool { false }
    public func keepInService() {}
}

public enum ProcessorSignal: Sendable, Equatable {
    case nmi
    case initialize
    case startup(vector: UInt8)
}

/// Everything outside the CPU: ports, device memory and time. Called on the vCPU's thread. Any thread.
public protocol VCPUPlatform: AnyObject, Sendable {
    func portRead(_ port: UInt16, width: AccessWidth) -> UInt32
    func portWrite(_ port: UInt16, width: AccessWidth, value: UInt32)
    func memoryRead(_ address: UInt64, width: AccessWidth) -> UInt64
    func memoryWrite(_ address: UInt64, width: AccessWidth, value: UInt64)
    /// Host address of the page of 4,096 bytes at guest-physical `page` when a device lets processors reach
    /// it without asking, else 0; see `MMIOBus.directPage`.
    func directPage(at page: UInt64, storing: Bool) -> UInt
    /// `user` is going to remember what `directPage` tells.
    func addDirectMemoryUser(_ user: any DirectMemoryUser)
    /// The legacy PIC's INTA cycle, when LINT0 passes ExtINT through: nil when the PIC has nothing.
    func acknowledgeExternalInterrupt() -> UInt8?
    /// Whether the legacy PIC asserts INTR and LINT0 of this vCPU lets it through.
    func hasExternalInterrupt(vcpu: Int) -> Bool
    /// Nanoseconds for the paravirtual clock, same as `MachineClock.now`.
    var now: UInt64 { get }
    var wallClock: UInt64 { get }
}

extension VCPUPlatform {
    public func directPage(at page: UInt64, storing: Bool) -> UInt { 0 }
    public func addDirectMemoryUser(_ user: any DirectMemoryUser) {}
}

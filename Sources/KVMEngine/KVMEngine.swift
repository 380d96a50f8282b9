internal import CKVM
internal import DeviceModel
internal import Glibc
public import GuestMemory
public import LinuxHost
internal import Synchronization
public import VCPUEngine

/// Runs vCPUs on the kernel's KVM. One object is one KVM virtual machine. Any thread.
public final class KVMEngine: Engine {
    /// Where the interrupt controllers are.
    public enum InterruptChips: Sendable, Equatable {
        /// All in our process: the local APICs given to `makeVCPU`, the PIC behind the platform. The same
        /// controllers serve the software engine, so that a vCPU can change engines at any time.
        case userspace
        /// Local APICs in the kernel; PIC and IOAPIC (`pins`) in our process, sending messages.
        case split(pins: Int)
        /// All in the kernel; `timer` adds the kernel's PIT.
        case kernel(timer: Bool)
    }

    public struct Configuration: Sendable {
        public var chips: InterruptChips
        /// The CPU model; nil shows what the host supports.
        public var cpuid: [CPUIDRow]?
        /// The guest's time-stamp counter rate, when the host can scale it.
        public var tscKilohertz: UInt64?
        /// With split chips: the guest ended a level-triggered interrupt with this vector. On a vCPU thread.
        public var endOfInterrupt: (@Sendable (UInt8) -> Void)?

        public init(
            chips: InterruptChips = .userspace, cpuid: [CPUIDRow]? = nil, tscKilohertz: UInt64? = nil,
            endOfInterrupt: (@Sendable (UInt8) -> Void)? = nil
        ) {
            self.chips = chips
            self.cpuid = cpuid
            self.tscKilohertz = tscKilohertz
            self.endOfInterrupt = endOfInterrupt
        }
    }

    public let name = "kvm"
    public let memory: GuestMemory
    let configuration: Configuration
    let system: KVMSystem
    let machine: Descriptor
    private let cpuid: [CPUIDRow]
    private let isLoggingDirtyPages = Mutex(false)

    /// Makes a virtual machine with the regions of `memory`.
    public init(_ system: KVMSystem, memory: GuestMemory, configuration: Configuration = Configuration())
        throws(HostError)
    {
        self.system = system
        self.memory = memory
        self.configuration = configuration
        cpuid = CPUIDTable.filtered(model: configuration.cpuid, supported: try system.supportedCPUID())
        let number = try Self.untilNotInterrupted("creating a KVM machine") {
            ospite_kvm_create_vm(system.descriptor.number)
        }
        machine = Descriptor(adopting: number)
        try HostSignals.makeInterrupting(HostSignals.interruptVCPU)
        // Below the firmware at the top of 4 GiB. Only some Intel processors need them: no error.
        _ = ospite_kvm_set_internal_pages(machine.number, 0xFEFF_C000, 0xFEFF_D000)
        // Emulation failures then come to us without a #UD queued in the guest.
        _ = ospite_kvm_enable(machine.number, .exitOnEmulationFailure, 1)
        try createChips()
        try setMemory(logging: false)
    }

    private func createChips() throws(HostError) {
        switch configuration.chips {
        case .userspace: return
        case .split(let pins):
            try check(
                "splitting the interrupt controllers",
                ospite_kvm_split_irqchip(machine.number, Int32(clamping: pins)))
        case .kernel(let timer):
            try check("creating interrupt controllers", ospite_kvm_create_irqchip(machine.number))
            if timer { try check("creating a timer", ospite_kvm_create_pit(machine.number, 1)) }
        }
    }

    /// Gives KVM the regions, one memory slot each. Also changes whether stores are logged.
    private func setMemory(logging: Bool) throws(HostError) {
        for (slot, region) in memory.regions.enumerated() {
            // SAFETY: the region's memory stays mapped while `memory` lives, which outlives the machine.
            let result = unsafe ospite_kvm_set_memory(
                machine.number, UInt32(slot), region.start, region.size, memory.hostBase(region),
                region.kind == .rom ? 1 : 0, logging && region.kind == .ram ? 1 : 0)
            try check("giving memory to KVM", result)
        }
    }

    public func makeVCPU(index: Int, apic: any LocalInterruptController, platform: any VCPUPlatform)
        throws(EngineError) -> any VCPU
    {
        try makeKVMVCPU(index: index, apic: apic, platform: platform)
    }

    /// As `makeVCPU`, with the concrete type.
    public func makeKVMVCPU(index: Int, apic: any LocalInterruptController, platform: any VCPUPlatform)
        throws(EngineError) -> KVMVCPU
    {
        do throws(HostError) {
            let number = try Self.untilNotInterrupted("creating a KVM vCPU") {
                ospite_kvm_create_vcpu(machine.number, Int32(clamping: index))
            }
            let vcpu = try KVMVCPU(
                self, Descriptor(adopting: number), index: index, apic: apic, platform: platform)
            try vcpu.setCPUID(
                CPUIDTable.table(cpuid, vcpu: index, usesKernelAPIC: configuration.chips != .userspace))
            if let rate = configuration.tscKilohertz {
                // Without hardware scaling only the host's own rate is possible: the guest then measures it.
                _ = ospite_kvm_set_tsc_khz(number, rate)
            }
            return vcpu
        } catch {
            throw EngineError(error.description)
        }
    }

    // MARK: Dirty pages

    /// Starts or stops logging which pages the guest stores to.
    public func setDirtyLogging(_ enabled: Bool) throws(HostError) {
        try setMemory(logging: enabled)
        isLoggingDirtyPages.withLock { isLogging in isLogging = enabled }
    }

    /// Marks the pages that the guest stored to since the last call in the memory's `PageMap`. Returns how
    /// many there were; 0 without logging.
    public func collectDirtyPages() throws(HostError) -> Int {
        guard isLoggingDirtyPages.withLock({ isLogging in isLogging }) else { return 0 }
        var total = 0
        for (slot, region) in memory.regions.enumerated() where region.kind == .ram {
            let pages = Int(region.size / 4096)
            var bitmap = [UInt64](repeating: 0, count: (pages + 63) / 64)
            // SAFETY: one bit per page of the slot, rounded up to 64.
            try check(
                "reading dirty pages", unsafe ospite_kvm_dirty_log(machine.number, UInt32(slot), &bitmap))
            for (word, bits) in bitmap.enumerated() {
                var bits = bits
                while bits != 0 {
                    let page = word * 64 + bits.trailingZeroBitCount
                    bits &= bits &- 1
                    guard page < pages else { break }
                    memory.pages.recordStore(region.firstPage + page)
                    total += 1
                }
            }
        }
        return total
    }

    // MARK: Time

    /// What the machine's kvmclock says now, in nanoseconds: save it when the machine pauses ...
    public func clock() throws(HostError) -> UInt64 {
        var nanoseconds: UInt64 = 0
        // SAFETY: one value.
        try check("reading the KVM clock", unsafe ospite_kvm_get_clock(machine.number, &nanoseconds))
        return nanoseconds
    }

    /// ... and set it when it goes on, so that the guest's time stood still.
    public func setClock(_ nanoseconds: UInt64) throws(HostError) {
        try check("setting the KVM clock", ospite_kvm_set_clock(machine.number, nanoseconds))
    }

    // MARK: Results

    func check(_ action: String, _ result: Int32) throws(HostError) {
        if result < 0 { throw .last(action) }
    }

    static func untilNotInterrupted(_ action: String, _ call: () -> Int32) throws(HostError) -> Int32 {
        while true {
            let result = call()
            if result >= 0 { return result }
            let error = HostError.last(action)
            if error.code != EINTR { throw error }
        }
    }
}

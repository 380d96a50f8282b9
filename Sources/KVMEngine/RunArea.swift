internal import CKVM
internal import LinuxHost
internal import Synchronization

/// A vCPU's memory shared with the kernel (struct kvm_run). Offsets are checked against its size.
///
/// Confinement: the vCPU's thread, but for `requestImmediateExit`.
@safe final class RunArea: Sendable {
    private let mapping: MemoryMapping

    init(vcpu: Descriptor, size: Int) throws(HostError) {
        mapping = try MemoryMapping(file: vcpu.number, size: size, writable: true)
    }

    func load<T: FixedWidthInteger & BitwiseCopyable>(_: T.Type, _ offset: Int) -> T {
        precondition(offset >= 0 && offset <= mapping.size - MemoryLayout<T>.size, "outside the run area")
        // SAFETY: checked; integers have no invalid bit patterns.
        return unsafe (mapping.base + offset).loadUnaligned(as: T.self)
    }

    func store<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, _ offset: Int) {
        precondition(offset >= 0 && offset <= mapping.size - MemoryLayout<T>.size, "outside the run area")
        // SAFETY: checked.
        unsafe (mapping.base + offset).storeBytes(of: value, as: T.self)
    }

    /// Whether `count` bytes at `offset` are inside: for offsets that come from the kernel.
    func contains(_ offset: UInt64, _ count: Int) -> Bool {
        offset <= UInt64(mapping.size) && UInt64(count) <= UInt64(mapping.size) - offset
    }

    // SAFETY: in both, the word is valid while the mapping is.
    /// The next KVM_RUN, or the one that waits, comes back at once with EINTR. Any thread.
    func requestImmediateExit() { unsafe immediateExit.pointee.store(1, ordering: .sequentiallyConsistent) }

    /// Takes the request back. An exchange, so that what is read after it is newer.
    func clearImmediateExit() {
        _ = unsafe immediateExit.pointee.exchange(0, ordering: .sequentiallyConsistent)
    }

    private var immediateExit: UnsafeMutablePointer<Atomic<UInt8>> {
        // SAFETY: inside the first page; Atomic<UInt8> has UInt8's layout.
        unsafe (mapping.base + ospite_run_immediate_exit).assumingMemoryBound(to: Atomic<UInt8>.self)
    }

    // MARK: Fields

    var exit: OspiteKVMExit { OspiteKVMExit(rawValue: load(UInt32.self, ospite_run_exit_reason)) ?? .unknown }
    var isReadyForInterrupt: Bool { load(UInt8.self, ospite_run_ready_for_interrupt) != 0 }
    var interruptFlag: Bool { load(UInt8.self, ospite_run_interrupt_flag) != 0 }
    var apicBase: UInt64 { load(UInt64.self, ospite_run_apic_base) }
    var cr8: UInt64 {
        get { load(UInt64.self, ospite_run_cr8) }
        set { store(newValue, ospite_run_cr8) }
    }
    var requestsInterruptWindow: Bool {
        get { load(UInt8.self, ospite_run_request_window) != 0 }
        set { store(newValue ? 1 : 0 as UInt8, ospite_run_request_window) }
    }

    /// Forgets what the last exit said about interrupts: the registers were changed since.
    func invalidateInterruptWindow() {
        store(0 as UInt8, ospite_run_ready_for_interrupt)
        store(0 as UInt8, ospite_run_interrupt_flag)
    }

    private static let union = ospite_run_exit

    /// A port access (KVM_EXIT_IO): `count` elements of `size` bytes at `data` of this area.
    struct PortAccess {
        let isWrite: Bool, size: Int, port: UInt16, count: Int, data: UInt64
    }
    var port: PortAccess {
        PortAccess(
            isWrite: load(UInt8.self, Self.union) == 1, size: Int(load(UInt8.self, Self.union + 1)),
            port: load(UInt16.self, Self.union + 2), count: Int(load(UInt32.self, Self.union + 4)),
            data: load(UInt64.self, Self.union + 8))
    }

    /// A device memory access (KVM_EXIT_MMIO).
    struct MemoryAccess {
        let address: UInt64, count: Int, isWrite: Bool
        /// Where the bytes are in this area.
        static let data = RunArea.union + 8
    }
    var memory: MemoryAccess {
        MemoryAccess(
            address: load(UInt64.self, Self.union), count: Int(min(load(UInt32.self, Self.union + 16), 8)),
            isWrite: load(UInt8.self, Self.union + 20) != 0)
    }

    /// Of a KVM_EXIT_DEBUG (struct kvm_debug_exit_arch): the linear address of the next instruction, and DR6.
    var debugAddress: UInt64 { load(UInt64.self, Self.union + 8) }
    var debugStatus: UInt64 { load(UInt64.self, Self.union + 16) }

    /// The vector of a KVM_EXIT_IOAPIC_EOI.
    var endedVector: UInt8 { load(UInt8.self, Self.union) }
    var failedEntryReason: UInt64 { load(UInt64.self, Self.union) }
    var systemEvent: UInt32 { load(UInt32.self, Self.union) }
    var internalError: UInt32 { load(UInt32.self, Self.union) }

    /// The bytes that KVM could not emulate, when it reports them (KVM_INTERNAL_ERROR_EMULATION with the flag
    /// KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES).
    var failedInstruction: [UInt8] {
        guard internalError == 1, load(UInt32.self, Self.union + 4) >= 3,
            load(UInt64.self, Self.union + 8) & 1 != 0
        else { return [] }
        let count = min(Int(load(UInt8.self, Self.union + 16)), 15)
        return (0..<count).map { load(UInt8.self, Self.union + 17 + $0) }
    }
}

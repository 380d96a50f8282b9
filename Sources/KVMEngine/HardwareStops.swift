internal import CKVM
internal import Synchronization
public import VCPUEngine

/// How KVM is told where a debugger wants to stop (KVM_SET_GUEST_DEBUG): in four debug registers that the
/// guest does not see, or, for more breakpoints than that, by a stop after each instruction. While it is so,
/// the guest's own debug registers have no effect.
struct HardwareStops: Equatable {
    /// linux/kvm.h and asm/kvm.h, KVM_GUESTDBG_*.
    enum Control {
        static let enable: UInt32 = 1, singleStep: UInt32 = 2, useRegisters: UInt32 = 0x20000
        /// Since Linux 5.15: no interrupt comes in front of a step.
        static let blockInterrupts: UInt32 = 0x10_0000
    }
    private enum Condition { static let execute: UInt64 = 0, write: UInt64 = 1, access: UInt64 = 3 }
    static let registerCount = 4

    private(set) var control: UInt32 = 0
    /// DR0 to DR7, as KVM wants them.
    private(set) var registers = [UInt64](repeating: 0, count: 8)
    /// What DR0 to DR3 stand for.
    private var watched: [DebugStops.Watchpoint?] = []
    let stops: DebugStops

    /// Nil: the processor cannot stop there.
    init?(_ stops: DebugStops) {
        self.stops = stops
        guard !stops.isEmpty else { return }
        guard stops.watchpoints.count <= Self.registerCount else { return nil }
        control = Control.enable
        for watchpoint in stops.watchpoints {
            guard let length = Self.lengthField(watchpoint) else { return nil }
            let condition = watchpoint.access == .write ? Condition.write : Condition.access
            add(watchpoint.address, condition | length << 2, watchpoint)
        }
        if stops.breakpoints.count + watched.count <= Self.registerCount {
            for address in stops.breakpoints.sorted() { add(address, Condition.execute, nil) }
        } else {
            control |= Control.singleStep
        }
        if stops.stepsOnce { control |= Control.singleStep | Control.blockInterrupts }
    }

    /// LEN 0, 1, 3, 2: 1, 2, 4, 8 bytes (SDM vol. 3 §17.2.4).
    private static func lengthField(_ watchpoint: DebugStops.Watchpoint) -> UInt64? {
        guard watchpoint.address % watchpoint.length == 0 else { return nil }
        return [1: 0, 2: 1, 4: 3, 8: 2][watchpoint.length]
    }

    private mutating func add(_ address: UInt64, _ field: UInt64, _ watchpoint: DebugStops.Watchpoint?) {
        let number = watched.count
        registers[number] = address
        // G of the register, and bit 10, which is always one.
        registers[7] |= 2 << UInt64(2 * number) | field << UInt64(16 + 4 * number) | 1 << 10
        control |= Control.useRegisters
        watched.append(watchpoint)
    }

    /// What a debug exit at linear address `next` means; nil: the guest goes on.
    func stop(next: UInt64, dr6: UInt64) -> DebugStop? {
        for (number, watchpoint) in watched.enumerated() where dr6 >> UInt64(number) & 1 != 0 {
            return watchpoint.map { .watchpoint($0) } ?? .breakpoint
        }
        if stops.stepsOnce { return .stepped }
        return stops.breakpoints.contains(next) ? .breakpoint : nil
    }
}

extension KVMVCPU {
    public func setDebugStops(_ stops: DebugStops) -> Bool {
        guard let wanted = HardwareStops(stops) else { return false }
        let isSet = debugging.withLock { current in
            if wanted == current { return true }
            guard set(wanted) else { return false }
            current = wanted
            return true
        }
        guard isSet else { return false }
        isStepping.store(stops.stepsOnce, ordering: .relaxed)
        return true
    }

    private func set(_ wanted: HardwareStops) -> Bool {
        // SAFETY: in both, the array has the 8 values that the call reads.
        if unsafe ospite_kvm_set_guest_debug(descriptor.number, wanted.control, wanted.registers) == 0 {
            return true
        }
        let older = wanted.control & ~HardwareStops.Control.blockInterrupts
        guard older != wanted.control else { return false }
        return unsafe ospite_kvm_set_guest_debug(descriptor.number, older, wanted.registers) == 0
    }

    /// After a debug exit, or a halt that a step led to; nil: the guest goes on.
    func debugExit(isHalt: Bool = false) -> Exit? {
        let stops = debugging.withLock { $0 }
        guard let stops, !stops.stops.isEmpty else { return nil }
        let stop: DebugStop?
        if isHalt {
            stop = stops.stops.stepsOnce ? .stepped : nil
        } else {
            stop = stops.stop(next: area.debugAddress, dr6: area.debugStatus)
        }
        guard let stop else { return nil }
        if stops.stops.stepsOnce {
            var rest = stops.stops
            rest.stepsOnce = false
            _ = setDebugStops(rest)
        }
        return .debug(stop)
    }
}

import CGate
import VCPUEngine
import X86Architecture

/// kvmclock: a page per vCPU from which the guest makes nanoseconds out of its time-stamp counter
/// (Linux Documentation/virt/kvm/x86/msr.rst).
///
/// Guest time is the counter without IA32_TSC_ADJUST, scaled. So all vCPUs publish one and the same line, and
/// the "stable" flag is true.
enum ParavirtualClock {
    /// The numbers before 0x4B564D00, with the same meaning.
    static let oldWallClock: UInt32 = 0x11, oldSystemTime: UInt32 = 0x12
    static let enable: UInt64 = 1
    /// PVCLOCK_TSC_STABLE_BIT
    static let stable: UInt64 = 1

    /// Factors so that nanoseconds = ((ticks << shift) * multiplier) >> 32, with the multiplier's top bit
    /// set.
    static func scale(frequency: UInt64) -> (shift: Int8, multiplier: UInt32) {
        var numerator: UInt64 = 1_000_000_000
        var denominator = max(1, min(frequency, 1 << 40))
        var shift: Int8 = 0
        while numerator >= denominator, shift < 31 {
            denominator <<= 1
            shift += 1
        }
        while numerator < denominator >> 1, shift > -31 {
            numerator <<= 1
            shift -= 1
        }
        let (quotient, _) = denominator.dividingFullWidth((numerator >> 32, numerator << 32))
        return (shift, UInt32(truncatingIfNeeded: min(quotient, 0xFFFF_FFFF)))
    }

    static func nanoseconds(ticks: UInt64, frequency: UInt64) -> UInt64 {
        let (shift, multiplier) = scale(frequency: frequency)
        let shifted = shift < 0 ? ticks >> UInt64(-shift) : ticks << UInt64(shift)
        let product = shifted.multipliedFullWidth(by: UInt64(multiplier))
        return product.high << 32 | product.low >> 32
    }
}

extension CPU {
    /// Guest time in nanoseconds.
    private var paravirtualTime: UInt64 {
        ParavirtualClock.nanoseconds(
            ticks: timeStampCounter &- s.tscAdjust, frequency: owner.tscFrequency) &+ owner.clockLead
    }

    /// struct pvclock_vcpu_time_info: version, 0, tsc_timestamp, system_time, multiplier, shift, flags.
    func writeSystemTime() {
        guard s.kvmSystemTime & ParavirtualClock.enable != 0 else { return }
        let page = s.kvmSystemTime & ~3
        let version = UInt32(truncatingIfNeeded: readPhysicalBytes(page, 4))
        // Odd while the fields change.
        writePhysicalBytes(page, 4, UInt64((version | 1) &+ (version & 1) * 2))
        writePhysicalBytes(page &+ 8, 8, s.tscAdjust)
        writePhysicalBytes(page &+ 16, 8, owner.clockLead)
        let (shift, multiplier) = ParavirtualClock.scale(frequency: owner.tscFrequency)
        writePhysicalBytes(page &+ 24, 4, UInt64(multiplier))
        writePhysicalBytes(page &+ 28, 1, UInt64(UInt8(bitPattern: shift)))
        writePhysicalBytes(page &+ 29, 1, ParavirtualClock.stable)
        writePhysicalBytes(page, 4, UInt64((version | 1) &+ (version & 1) * 2 &+ 1))
    }

    /// struct pvclock_wall_clock: version, seconds, nanoseconds of the Unix time at guest time 0.
    func writeWallClock() {
        let address = s.kvmWallClock & ~3
        guard address != 0 else { return }
        let origin = owner.platform.wallClock &- paravirtualTime
        let version = UInt32(truncatingIfNeeded: readPhysicalBytes(address, 4)) & ~1
        writePhysicalBytes(address, 4, UInt64(version &+ 1))
        writePhysicalBytes(address &+ 4, 4, origin / 1_000_000_000)
        writePhysicalBytes(address &+ 8, 4, origin % 1_000_000_000)
        writePhysicalBytes(address, 4, UInt64(version &+ 2))
    }

    /// `size` bytes of RAM at a 4-byte aligned guest-physical address; zero elsewhere.
    private func readPhysicalBytes(_ address: UInt64, _ size: Int) -> UInt64 {
        guard let region = owner.region(at: address & TLB.pageMask), region.isRAM else { return 0 }
        guard address & 0xFFF <= 0x1000 - UInt64(size) else { return 0 }
        return Self.loadHost(region.host &+ UInt(address &- region.start), size)
    }

    private func writePhysicalBytes(_ address: UInt64, _ size: Int, _ value: UInt64) {
        let page = address & TLB.pageMask
        guard let region = owner.region(at: page), region.isRAM else { return }
        guard address & 0xFFF <= 0x1000 - UInt64(size) else { return }
        Self.storeHost(region.host &+ UInt(address &- region.start), size, value)
        noteStore(page, region)
    }
}

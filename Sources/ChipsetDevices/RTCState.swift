import DeviceModel

/// The registers of the real-time clock, as a function of time.
struct RTCState: Sendable {
    struct Instant: Sendable {
        /// Machine time and Unix time, in nanoseconds.
        var now: UInt64
        var wall: UInt64
    }
    /// Both banks. Bytes 0-9 and 32h hold time only while `frozen`.
    var cmos = [UInt8](repeating: 0, count: 256)
    var index: UInt8 = 0
    var extendedIndex: UInt8 = 0
    var offsetSeconds: Int64 = 0
    var phase: UInt64 = 0
    var weekdayOffset: UInt8 = 0
    /// Register B SET, or the divider held in reset: time registers are plain memory.
    var frozen = false
    var flags: UInt8 = 0
    /// The guest second and the periodic tick up to which flags were set.
    var servicedSecond: Int64 = 0
    var servicedPeriod: UInt64 = 0

    private static let second = TickRate.nanosecondsPerSecond
    /// UIP rises this long before an update: 244 us.
    private static let updateNotice: UInt64 = 244_141
    private static let crystal = TickRate(frequency: 32_768)

    init(_ configuration: RTC.Configuration) {
        cmos[RTCRegister.a] = RTCControlA.dividerRunning | 6
        cmos[RTCRegister.b] = RTCControlB.hours24
        // Coprocessor present, no floppy, no PS/2 mouse.
        cmos[CMOSByte.equipment] = 0x02
        let floppies = configuration.floppyDrives
        if let first = floppies.first {
            cmos[CMOSByte.floppyDrives] = first << 4 | (floppies.dropFirst().first ?? 0)
            // Bit 0: there are drives; bits 7 and 6: how many, less one.
            cmos[CMOSByte.equipment] |= 1 | (floppies.count > 1 ? 0x40 : 0)
        }
        store16(640, at: CMOSByte.baseMemory)
        let megabyte: UInt64 = 1 << 20
        let below = configuration.memoryBelow4GiB
        let extended = UInt16(min(below > megabyte ? (below - megabyte) >> 10 : 0, 0xFFFF))
        store16(extended, at: CMOSByte.extendedMemory)
        store16(extended, at: CMOSByte.extendedMemoryCopy)
        let above16 = below > 16 * megabyte ? (below - 16 * megabyte) >> 16 : 0
        store16(UInt16(min(above16, 0xFFFF)), at: CMOSByte.memoryAbove16MiB)
        let above4GiB = min(configuration.memoryAbove4GiB >> 16, 0xFF_FFFF)
        for byte in 0..<3 {
            cmos[CMOSByte.memoryAbove4GiB + byte] = UInt8(truncatingIfNeeded: above4GiB >> UInt64(byte * 8))
        }
        cmos[CMOSByte.processorCount] = UInt8(clamping: configuration.processorCount - 1)
        let sum = CMOSByte.checksummed.reduce(UInt16(0)) { $0 &+ UInt16(cmos[$1]) }
        cmos[CMOSByte.checksum] = UInt8(sum >> 8)
        cmos[CMOSByte.checksum + 1] = UInt8(sum & 0xFF)
    }

    private mutating func store16(_ value: UInt16, at offset: Int) {
        cmos[offset] = UInt8(truncatingIfNeeded: value)
        cmos[offset + 1] = UInt8(value >> 8)
    }

    // MARK: Time

    /// Guest seconds since the epoch, and the nanoseconds into that second.
    private func guestTime(_ instant: Instant) -> (seconds: Int64, fraction: UInt64) {
        let total = instant.wall &+ phase
        return (Int64(total / Self.second) &+ offsetSeconds, total % Self.second)
    }

    var isRequesting: Bool { flags & RTCFlags.request != 0 }
    var requestsAlarm: Bool { flags & RTCFlags.alarm != 0 && cmos[RTCRegister.b] & RTCControlB.alarm != 0 }

    private func encode(_ value: Int) -> UInt8 {
        if cmos[RTCRegister.b] & RTCControlB.binary != 0 { return UInt8(truncatingIfNeeded: value) }
        return UInt8(truncatingIfNeeded: (value / 10 % 10) << 4 | value % 10)
    }

    private func decode(_ byte: UInt8) -> Int {
        if cmos[RTCRegister.b] & RTCControlB.binary != 0 { return Int(byte) }
        return Int(byte >> 4) * 10 + Int(byte & 15)
    }

    private func encode(hour: Int) -> UInt8 {
        if cmos[RTCRegister.b] & RTCControlB.hours24 != 0 { return encode(hour) }
        let twelve = hour % 12 == 0 ? 12 : hour % 12
        return encode(twelve) | (hour >= 12 ? 0x80 : 0)
    }

    private func decode(hour byte: UInt8) -> Int {
        if cmos[RTCRegister.b] & RTCControlB.hours24 != 0 { return decode(byte) }
        return decode(byte & 0x7F) % 12 + (byte & 0x80 != 0 ? 12 : 0)
    }

    /// The register image of a guest second.
    private func field(_ register: Int, _ seconds: Int64) -> UInt8 {
        let time = CivilTime(secondsSinceEpoch: seconds)
        switch register {
        case RTCRegister.seconds: return encode(time.second)
        case RTCRegister.minutes: return encode(time.minute)
        case RTCRegister.hours: return encode(hour: time.hour)
        case RTCRegister.weekday: return encode((time.weekday + Int(weekdayOffset)) % 7 + 1)
        case RTCRegister.day: return encode(time.day)
        case RTCRegister.month: return encode(time.month)
        case RTCRegister.year: return encode((time.year % 100 + 100) % 100)
        default: return encode(max(0, time.year) / 100 % 100)
        }
    }

    private mutating func freeze(_ instant: Instant) {
        let seconds = guestTime(instant).seconds
        for register in RTCRegister.time { cmos[register] = field(register, seconds) }
        frozen = true
    }

    /// Makes the register image the guest's time, `fraction` nanoseconds into the second.
    private mutating func adopt(_ instant: Instant, fraction: UInt64) {
        let year = decode(cmos[RTCRegister.century]) * 100 + decode(cmos[RTCRegister.year])
        let time = CivilTime(
            year: year, month: max(1, min(12, decode(cmos[RTCRegister.month]))),
            day: max(1, decode(cmos[RTCRegister.day])), hour: decode(hour: cmos[RTCRegister.hours]),
            minute: decode(cmos[RTCRegister.minutes]), second: decode(cmos[RTCRegister.seconds]))
        let wallFraction = instant.wall % Self.second
        phase = (fraction + Self.second - wallFraction) % Self.second
        let total = instant.wall &+ phase
        offsetSeconds = time.secondsSinceEpoch &- Int64(total / Self.second)
        let weekday = max(0, decode(cmos[RTCRegister.weekday]) - 1) % 7
        weekdayOffset = UInt8((weekday - time.weekday + 7) % 7)
        servicedSecond = time.secondsSinceEpoch
    }

    // MARK: Registers

    mutating func read(_ register: Int, _ instant: Instant) -> UInt8 {
        switch register {
        case RTCRegister.c:
            // Reading register C clears it, and the interrupt.
            defer { flags = 0 }
            return flags
        case RTCRegister.a:
            let time = guestTime(instant)
            let updating = !frozen && time.fraction >= Self.second - Self.updateNotice
            return cmos[register] | (updating ? RTCControlA.updateInProgress : 0)
        case RTCRegister.d: return RTCControlD.valid
        case _ where RTCRegister.time.contains(register):
            return frozen ? cmos[register] : field(register, guestTime(instant).seconds)
        default: return cmos[register]
        }
    }

    mutating func write(_ register: Int, _ value: UInt8, _ instant: Instant) {
        switch register {
        case RTCRegister.a: writeControl(a: value & 0x7F, b: cmos[RTCRegister.b], instant)
        case RTCRegister.b: writeControl(a: cmos[RTCRegister.a], b: value, instant)
        case RTCRegister.c, RTCRegister.d: break
        case _ where RTCRegister.time.contains(register):
            if frozen {
                cmos[register] = value
            } else {
                // A store without SET lands in the running clock.
                let fraction = guestTime(instant).fraction
                freeze(instant)
                cmos[register] = value
                adopt(instant, fraction: fraction)
                frozen = false
            }
        default: cmos[register] = value
        }
    }

    private mutating func writeControl(a: UInt8, b: UInt8, _ instant: Instant) {
        let holdsDivider = { (a: UInt8) in a & RTCControlA.dividerReset == RTCControlA.dividerReset }
        let shouldFreeze = holdsDivider(a) || b & RTCControlB.set != 0
        let dividerReleased = holdsDivider(cmos[RTCRegister.a]) && !holdsDivider(a)
        if shouldFreeze && !frozen { freeze(instant) }
        let oldRate = cmos[RTCRegister.a] & 0x7F
        cmos[RTCRegister.a] = a
        // SET aborts updates and clears the update enable (data sheet, register B).
        cmos[RTCRegister.b] = b & RTCControlB.set != 0 ? b & ~RTCControlB.update : b
        if !shouldFreeze && frozen {
            frozen = false
            // The first update comes half a second after the divider starts (data sheet, register A).
            let fraction = dividerReleased ? Self.second / 2 : guestTime(instant).fraction
            adopt(instant, fraction: fraction)
        }
        if a != oldRate { servicedPeriod = periodicTick(instant) ?? 0 }
        refreshRequest()
    }

    private mutating func refreshRequest() {
        let requested = flags & cmos[RTCRegister.b] & RTCFlags.all != 0
        flags = flags & RTCFlags.all | (requested ? RTCFlags.request : 0)
    }

    // MARK: Events

    /// Crystal ticks per periodic interrupt (data sheet table 5), or nil when there is none.
    private var periodicInterval: UInt64? {
        let rate = cmos[RTCRegister.a] & RTCControlA.rate
        guard rate != 0, cmos[RTCRegister.a] & RTCControlA.divider == RTCControlA.dividerRunning else {
            return nil
        }
        return 1 << UInt64((rate <= 2 ? rate + 7 : rate) - 1)
    }

    private func periodicTick(_ instant: Instant) -> UInt64? {
        periodicInterval.map { Self.crystal.ticks(at: instant.now) / $0 }
    }

    /// Begins life at `instant`: nothing has happened before.
    mutating func startServicing(_ instant: Instant) {
        flags = 0
        servicedSecond = guestTime(instant).seconds
        servicedPeriod = periodicTick(instant) ?? 0
    }

    /// Sets the flags of what happened since the last call.
    mutating func service(_ instant: Instant) {
        if let tick = periodicTick(instant), tick != servicedPeriod {
            servicedPeriod = tick
            flags |= RTCFlags.periodic
        }
        let seconds = guestTime(instant).seconds
        if !frozen, seconds != servicedSecond {
            flags |= RTCFlags.update
            if alarmPassed(after: servicedSecond, through: seconds) { flags |= RTCFlags.alarm }
            servicedSecond = seconds
        }
        refreshRequest()
    }

    private func alarmPassed(after first: Int64, through last: Int64) -> Bool {
        // A clock that was set back by its host has no past to look at. One day contains every alarm.
        guard last > first else { return false }
        let count = min(UInt64(bitPattern: last &- first), 86_400)
        for back in 0..<Int64(count) where alarmMatches(last &- back) { return true }
        return false
    }

    private func alarmMatches(_ seconds: Int64) -> Bool {
        let inDay = Int(seconds - seconds.flooredQuotient(86_400) * 86_400)
        func matches(_ register: Int, _ value: UInt8) -> Bool {
            // C0h-FFh: any value.
            cmos[register] & 0xC0 == 0xC0 || cmos[register] == value
        }
        return matches(RTCRegister.secondsAlarm, encode(inDay % 60))
            && matches(RTCRegister.minutesAlarm, encode(inDay / 60 % 60))
            && matches(RTCRegister.hoursAlarm, encode(hour: inDay / 3600))
    }

    /// When the line may have to change next, in machine time. Flags without an enabled interrupt need no
    /// timer: they are computed when they are read.
    func nextEvent(_ instant: Instant) -> UInt64? {
        guard !isRequesting else { return nil }
        var deadline: UInt64?
        if cmos[RTCRegister.b] & RTCControlB.periodic != 0, let interval = periodicInterval {
            deadline = Self.crystal.time(of: (servicedPeriod &+ 1) &* interval)
        }
        if cmos[RTCRegister.b] & (RTCControlB.update | RTCControlB.alarm) != 0, !frozen {
            let update = instant.now &+ Self.second - guestTime(instant).fraction
            deadline = min(deadline ?? update, update)
        }
        return deadline
    }

    // MARK: Saved state

    var saved: RTC.Saved {
        RTC.Saved(
            cmos: cmos, index: index, extendedIndex: extendedIndex, offsetSeconds: offsetSeconds,
            phase: phase,
            weekdayOffset: weekdayOffset, frozen: frozen, flags: flags, servicedSecond: servicedSecond,
            servicedPeriod: servicedPeriod)
    }

    mutating func restore(_ saved: RTC.Saved, _ instant: Instant) throws(RestoreError) {
        func check(_ condition: Bool, _ reason: String) throws(RestoreError) {
            if !condition { throw RestoreError(RTC.kind, reason) }
        }
        try check(saved.cmos.count == 256, "the size of the CMOS")
        try check(saved.index < 128 && saved.extendedIndex < 128, "an index")
        // The largest year that the registers can say is below 26,000.
        try check(saved.offsetSeconds.magnitude < 1 << 40, "the offset")
        try check(saved.phase < Self.second && saved.weekdayOffset < 7, "the phase or weekday")
        try check(saved.flags & 0x0F == 0, "register C")
        let a = saved.cmos[RTCRegister.a]
        let b = saved.cmos[RTCRegister.b]
        let holds = a & RTCControlA.dividerReset == RTCControlA.dividerReset || b & RTCControlB.set != 0
        try check(a < 0x80 && saved.frozen == holds, "register A or B")
        try check(saved.servicedPeriod <= Self.crystal.ticks(at: instant.now), "the periodic tick")
        try check(saved.servicedSecond.magnitude < 1 << 41, "the second")
        cmos = saved.cmos
        index = saved.index
        extendedIndex = saved.extendedIndex
        offsetSeconds = saved.offsetSeconds
        phase = saved.phase
        weekdayOffset = saved.weekdayOffset
        frozen = saved.frozen
        flags = saved.flags
        servicedSecond = saved.servicedSecond
        servicedPeriod = saved.servicedPeriod
        refreshRequest()
    }
}

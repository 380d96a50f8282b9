/// One counter of the 8254 (Intel 231164-005). Times are ticks of its 1.193182 MHz clock.
///
/// Nothing counts here: the state says when counting started, and everything follows from the time.
struct PITChannel: Equatable, Codable, Sendable {
    enum Phase: UInt8, Codable, Sendable {
        /// No count yet, or waiting for a trigger.
        case idle
        case running
        /// Gate low in mode 0 or 4: the count stands still.
        case paused
    }
    /// 0...5.
    var mode: UInt8 = 0
    var isBCD = false
    /// Control word RW bits: 1 low byte, 2 high byte, 3 low then high.
    var access: UInt8 = 3
    /// Ticks per run, 1...65536 (10000 in BCD).
    var count: UInt32 = 65536
    /// A count that waits for the end of the period (modes 2, 3) or for a trigger (1, 5).
    var nextCount: UInt32?
    /// The tick at which `nextCount` takes over.
    var nextAt: UInt64?
    var phase = Phase.idle
    /// Running: the tick at which this run started. Otherwise: ticks that had elapsed.
    var origin: UInt64 = 0
    var gate = true
    /// A count was written since the control word.
    var isLoaded = false
    var lowWritten: UInt8?
    var readsHighNext = false
    var latchedCount: UInt16?
    var latchedStatus: UInt8?

    private func elapsed(_ now: UInt64) -> UInt64 {
        switch phase {
        case .running: return now &- origin
        case .paused, .idle: return origin
        }
    }
    private var period: UInt64 { UInt64(max(count, 1)) }

    /// The OUT pin.
    func output(_ now: UInt64) -> Bool {
        guard phase != .idle else { return mode != 0 }
        let ticks = elapsed(now)
        switch mode {
        case 0, 1: return ticks >= period
        case 2: return ticks % period != period - 1
        case 3: return ticks % period < (period + 1) / 2
        default: return ticks != period
        }
    }

    /// The counting element, in the guest's number system.
    func counter(_ now: UInt64) -> UInt16 {
        let ticks = elapsed(now)
        let value: UInt64
        switch mode {
        case 2: value = period - ticks % period
        case 3: value = period - (2 &* ticks) % period
        default:
            // Modes 0, 1, 4 and 5 count on through zero.
            let modulus: UInt64 = isBCD ? 10_000 : 65_536
            value = (period % modulus + modulus - ticks % modulus) % modulus
        }
        return isBCD ? Self.bcd(value % 10_000) : UInt16(truncatingIfNeeded: value)
    }

    private static func bcd(_ value: UInt64) -> UInt16 {
        let digits = (value / 1000 % 10) << 12 | (value / 100 % 10) << 8 | (value / 10 % 10) << 4 | value % 10
        return UInt16(truncatingIfNeeded: digits)
    }

    /// A written count: zero is the largest, 2^16 or 10^4.
    private func ticks(from written: UInt16) -> UInt32 {
        guard isBCD else { return written == 0 ? 65_536 : UInt32(written) }
        let value = UInt32(written)
        let decimal = (value >> 12) * 1000 + (value >> 8 & 15) * 100 + (value >> 4 & 15) * 10 + (value & 15)
        return decimal == 0 ? 10_000 : decimal
    }

    /// The first tick after `tick` at which OUT rises, when it is known.
    func nextRise(after tick: UInt64) -> UInt64? {
        guard phase == .running else { return nil }
        switch mode {
        case 0, 1:
            let rise = origin &+ period
            return rise > tick ? rise : nil
        case 2, 3:
            guard tick >= origin else { return origin &+ period }
            return origin &+ ((tick - origin) / period &+ 1) &* period
        default:
            let rise = origin &+ period &+ 1
            return rise > tick ? rise : nil
        }
    }

    /// Lets a waiting count take over when its time has come.
    mutating func advance(to now: UInt64) {
        guard let count = nextCount, let at = nextAt, at <= now else { return }
        self.count = count
        origin = at
        nextCount = nil
        nextAt = nil
    }

    mutating func writeControl(_ value: UInt8, _ now: UInt64) {
        let bits = value >> 1 & 7
        let held = UInt64(counter(now))
        mode = bits > 5 ? bits - 4 : bits
        isBCD = value & 1 != 0
        access = value >> 4 & 3
        lowWritten = nil
        readsHighNext = false
        latchedCount = nil
        latchedStatus = nil
        nextCount = nil
        nextAt = nil
        isLoaded = false
        phase = .idle
        // The counting element keeps its value until a count is loaded.
        count = 65_536
        origin = 65_536 - held
    }

    /// One byte of a count.
    mutating func write(_ byte: UInt8, _ now: UInt64) {
        advance(to: now)
        switch access {
        case 1: load(UInt16(byte), now)
        case 2: load(UInt16(byte) << 8, now)
        default:
            guard let low = lowWritten else {
                lowWritten = byte
                // Mode 0: the first byte of a count stops the counter and drops OUT.
                if mode == 0 {
                    origin = min(elapsed(now), period - 1)
                    phase = isLoaded ? .idle : phase
                }
                return
            }
            lowWritten = nil
            load(UInt16(byte) << 8 | UInt16(low), now)
        }
    }

    private mutating func load(_ written: UInt16, _ now: UInt64) {
        let ticks = ticks(from: written)
        let wasRunning = phase == .running
        isLoaded = true
        switch mode {
        case 0, 4:
            count = ticks
            origin = gate ? now : 0
            phase = gate ? .running : .paused
        case 2, 3:
            if wasRunning {
                nextCount = ticks
                nextAt = nextRise(after: now)
            } else {
                count = ticks
                origin = gate ? now : 0
                phase = gate ? .running : .idle
            }
        default:
            nextCount = ticks
        }
    }

    /// The GATE pin. Channels 0 and 1 have it tied high.
    mutating func setGate(_ level: Bool, _ now: UInt64) {
        guard level != gate else { return }
        advance(to: now)
        gate = level
        switch mode {
        case 0, 4:
            if level, phase == .paused {
                origin = now &- origin
                phase = .running
            } else if !level, phase == .running {
                origin = elapsed(now)
                phase = .paused
            }
        case 2, 3:
            if level, isLoaded {
                start(now)
            } else if !level, phase == .running {
                origin = elapsed(now) % period
                phase = .idle
            }
        default:
            if level, isLoaded { start(now) }
        }
    }

    private mutating func start(_ now: UInt64) {
        if let next = nextCount { count = next }
        nextCount = nil
        nextAt = nil
        origin = now
        phase = .running
    }

    mutating func latchCount(_ now: UInt64) {
        if latchedCount == nil { latchedCount = counter(now) }
    }

    /// Read-back status: OUT, null count, RW, mode, BCD.
    mutating func latchStatus(_ now: UInt64) {
        guard latchedStatus == nil else { return }
        let isNull = !isLoaded || nextCount != nil || lowWritten != nil
        latchedStatus =
            (output(now) ? 0x80 : 0) | (isNull ? 0x40 : 0) | access << 4 | mode << 1 | (isBCD ? 1 : 0)
    }

    mutating func read(_ now: UInt64) -> UInt8 {
        advance(to: now)
        if let status = latchedStatus {
            latchedStatus = nil
            return status
        }
        let value = latchedCount ?? counter(now)
        let high = access == 2 || (access == 3 && readsHighNext)
        if access == 3 { readsHighNext.toggle() }
        if access != 3 || high { latchedCount = nil }
        return UInt8(truncatingIfNeeded: high ? value >> 8 : value)
    }

    /// Whether a restored channel is one that this code could have made by `now`.
    func isValid(at now: UInt64) -> Bool {
        mode <= 5 && (1...3).contains(access) && (1...65_536).contains(count)
            && (nextCount.map { (1...65_536).contains($0) } ?? true)
            && (nextAt == nil || nextCount != nil) && origin <= max(now, 65_536)
            && (phase != .running || origin <= now)
    }
}

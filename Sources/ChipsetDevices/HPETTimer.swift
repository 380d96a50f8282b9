/// One comparator of the HPET (IA-PC HPET specification 1.0a §2.3.8). Times are ticks of the main counter.
struct HPETTimer: Equatable, Codable, Sendable {
    /// The writable configuration bits.
    var configuration: UInt32 = 0
    var comparator: UInt64 = .max
    /// The machine time of the next match; nil while the counter stands or none will come.
    var deadline: UInt64?
    /// The machine time of the last match.
    var lastMatch: UInt64 = 0
    var period: UInt64 = 0
    /// FSB route: message address in bits 63..32, data in 31..0.
    var route: UInt64 = 0

    enum Bits {
        static let level: UInt32 = 1 << 1, enable: UInt32 = 1 << 2, periodic: UInt32 = 1 << 3
        static let setValue: UInt32 = 1 << 6, width32: UInt32 = 1 << 8
        static let routeShift: UInt32 = 9, routeMask: UInt32 = 0x1F
        static let message: UInt32 = 1 << 14
        static let writable: UInt32 = 0x7F4E
        /// Periodic-capable, 64 bits wide, message-capable.
        static let capabilities: UInt32 = 1 << 4 | 1 << 5 | 1 << 15
    }
    /// A comparator that the counter passed while the guest's store was under way matches at once: 10 ms.
    static let latePeriod: UInt64 = 1_000_000

    var isEnabled: Bool { configuration & Bits.enable != 0 }
    var isPeriodic: Bool { configuration & Bits.periodic != 0 }
    var isLevel: Bool { configuration & Bits.level != 0 }
    var usesMessage: Bool { configuration & Bits.message != 0 }
    var line: Int { Int(configuration >> Bits.routeShift & Bits.routeMask) }
    private var width: UInt64 { configuration & Bits.width32 != 0 ? 0xFFFF_FFFF : .max }

    /// Ticks from `counter` to the next match. `isNew` says that the comparator was just stored: then one
    /// that lies a little behind matches at once.
    func ticksToMatch(_ counter: UInt64, isNew: Bool) -> UInt64 {
        if isNew && (counter &- comparator) & width <= Self.latePeriod { return 0 }
        return (comparator &- counter) & width
    }

    /// After a match: moves a periodic comparator past `counter`. Returns the ticks to the next match, nil
    /// when there is none in any machine's life.
    mutating func step(past counter: UInt64) -> UInt64? {
        guard isPeriodic, period > 0 else {
            // A 32-bit comparator matches again at each wrap of the counter (§2.3.9.2.1).
            let ahead = (comparator &- counter) & width
            return width == .max ? nil : ahead == 0 ? 1 << 32 : ahead
        }
        let behind = (counter &- comparator) & width
        comparator = (comparator &+ (behind / period &+ 1) &* period) & width
        return (comparator &- counter) & width
    }

    /// A store of the comparator register.
    mutating func writeComparator(_ value: UInt64) {
        let value = value & width
        if !isPeriodic || configuration & Bits.setValue != 0 { comparator = value }
        if isPeriodic { period = value }
        configuration &= ~Bits.setValue
    }

    mutating func writeConfiguration(_ value: UInt32) {
        configuration = value & Bits.writable
        if configuration & Bits.width32 != 0 {
            comparator &= 0xFFFF_FFFF
            period &= 0xFFFF_FFFF
        }
    }
}

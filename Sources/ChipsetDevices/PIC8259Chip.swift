/// One 8259A (Intel 231468-003), without its wiring. Bit n of every mask is input n.
struct PIC8259Chip: Equatable, Codable, Sendable {
    /// Requests latched (edge inputs) or following the wire (level inputs).
    var requested: UInt8 = 0
    var inService: UInt8 = 0
    var masked: UInt8 = 0
    /// The wires as last seen.
    var lines: UInt8 = 0
    /// Inputs that are level-triggered by the ELCR.
    var levelInputs: UInt8 = 0
    /// ICW1 LTIM: all inputs are level-triggered.
    var allLevel = false
    /// The input with the highest priority, 0...7.
    var highest: UInt8 = 0
    /// ICW2 bits 7..3.
    var vectorBase: UInt8 = 0
    /// The ICW that the next write to the odd port is: 2, 3 or 4; 0 when initialised.
    var expectedICW: UInt8 = 0
    var needsICW4 = false
    var isSingle = false
    var automaticEOI = false
    var rotateOnAutomaticEOI = false
    var specialMask = false
    var specialFullyNested = false
    /// OCW3 RIS: the even port reads ISR instead of IRR.
    var readsInService = false
    var pollPending = false

    private var levelMask: UInt8 { allLevel ? 0xFF : levelInputs }

    mutating func setLine(_ input: Int, asserted: Bool) {
        let bit = UInt8(1) << UInt8(input & 7)
        let rising = asserted && lines & bit == 0
        lines = asserted ? lines | bit : lines & ~bit
        if levelMask & bit != 0 {
            requested = asserted ? requested | bit : requested & ~bit
        } else if rising {
            // The latch holds the edge until INTA: devices that pulse are not lost.
            requested |= bit
        }
    }

    mutating func setLevelInputs(_ mask: UInt8) {
        levelInputs = mask
        requested |= lines & mask
    }

    /// Distance of the best set bit from the highest priority, 0...7, or 8.
    private func rank(_ mask: UInt8) -> Int {
        guard mask != 0 else { return 8 }
        let shift = UInt32(highest & 7)
        let rotated = UInt16(mask) << 8 | UInt16(mask)
        return UInt8(truncatingIfNeeded: rotated >> shift).trailingZeroBitCount
    }

    private func input(ofRank rank: Int) -> Int { (rank + Int(highest)) & 7 }

    /// The input that INT is asserted for. `cascade` is the bit of the slave's input on a master in special
    /// fully nested mode, whose own service does not block it.
    func pendingInput(cascade: UInt8 = 0) -> Int? {
        let best = rank(requested & ~masked)
        guard best < 8 else { return nil }
        var blocking = inService
        // Special mask mode: a level that is in service and masked does not block the ones below it.
        if specialMask { blocking &= ~masked }
        if specialFullyNested { blocking &= ~cascade }
        return best < rank(blocking) ? input(ofRank: best) : nil
    }

    /// INTA for `input`.
    mutating func acknowledge(_ input: Int) {
        let bit = UInt8(1) << UInt8(input & 7)
        if levelMask & bit == 0 { requested &= ~bit }
        if automaticEOI {
            if rotateOnAutomaticEOI { highest = UInt8((input + 1) & 7) }
        } else {
            inService |= bit
        }
    }

    mutating func writeCommand(_ value: UInt8) {
        if value & 0x10 != 0 {
            initialise(icw1: value)
        } else if value & 0x08 != 0 {
            writeOCW3(value)
        } else {
            writeOCW2(value)
        }
    }

    private mutating func initialise(icw1 value: UInt8) {
        // ICW1 clears the edge latches, IMR, special mask, and makes input 7 the lowest priority.
        allLevel = value & 0x08 != 0
        isSingle = value & 0x02 != 0
        needsICW4 = value & 0x01 != 0
        expectedICW = 2
        requested = lines & levelMask
        inService = 0
        masked = 0
        highest = 0
        automaticEOI = false
        rotateOnAutomaticEOI = false
        specialMask = false
        specialFullyNested = false
        readsInService = false
        pollPending = false
    }

    private mutating func writeOCW3(_ value: UInt8) {
        if value & 0x04 != 0 { pollPending = true }
        if value & 0x02 != 0 { readsInService = value & 0x01 != 0 }
        if value & 0x40 != 0 { specialMask = value & 0x20 != 0 }
    }

    /// OCW2: R, SL, EOI in bits 7..5, the level in bits 2..0.
    private mutating func writeOCW2(_ value: UInt8) {
        let level = Int(value & 7)
        switch value >> 5 {
        case 0: rotateOnAutomaticEOI = false
        case 4: rotateOnAutomaticEOI = true
        case 1, 5:
            let candidates = specialMask ? inService & ~masked : inService
            let best = rank(candidates)
            guard best < 8 else { return }
            let ended = input(ofRank: best)
            inService &= ~(1 << UInt8(ended))
            if value >> 5 == 5 { highest = UInt8((ended + 1) & 7) }
        case 3: inService &= ~(1 << UInt8(level))
        case 7:
            inService &= ~(1 << UInt8(level))
            highest = UInt8((level + 1) & 7)
        case 6: highest = UInt8((level + 1) & 7)
        default: break
        }
    }

    mutating func writeData(_ value: UInt8) {
        switch expectedICW {
        case 2:
            vectorBase = value & 0xF8
            expectedICW = isSingle ? (needsICW4 ? 4 : 0) : 3
        case 3:
            // The cascade is wired to input 2 on a PC; ICW3 cannot move it.
            expectedICW = needsICW4 ? 4 : 0
        case 4:
            specialFullyNested = value & 0x10 != 0
            automaticEOI = value & 0x02 != 0
            expectedICW = 0
        default: masked = value
        }
    }

    var isValid: Bool { highest < 8 && vectorBase & 7 == 0 && [0, 2, 3, 4].contains(expectedICW) }
}

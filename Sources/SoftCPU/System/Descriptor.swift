import X86Architecture

/// A segment descriptor or gate as the tables hold it (SDM vol. 3 §3.4.5, §5.8.3, §6.11).
///
/// ```
///  63      56 55   52 51   48 47 46 45 44 43  40 39      32 31         16 15          0
/// +----------+-------+-------+--+-----+--+------+----------+-------------+-------------+
/// | base 31-24|G D L A|limit  |P | DPL |S | type | base 23-16| base 15-0  | limit 15-0  |   segment
/// | offset 31-16              |P | DPL |0 | type | count/IST | selector   | offset 15-0 |   gate
/// +--------------------------+--+-----+--+------+----------+-------------+-------------+
/// ```
struct Descriptor: BitwiseCopyable {
    var low: UInt64
    /// Bytes 8..15 of system descriptors in long mode: base or offset 63..32.
    var high: UInt64 = 0
    /// Linear address in its table.
    var address: UInt64 = 0

    var type: UInt8 { UInt8(truncatingIfNeeded: low >> 40) & 0xF }
    var isCodeOrData: Bool { low & (1 << 44) != 0 }
    var privilege: UInt8 { UInt8(truncatingIfNeeded: low >> 45) & 3 }
    var isPresent: Bool { low & (1 << 47) != 0 }
    var isLong: Bool { low & (1 << 53) != 0 }
    var isBig: Bool { low & (1 << 54) != 0 }

    var isCode: Bool { isCodeOrData && type & 8 != 0 }
    var isConforming: Bool { isCode && type & 4 != 0 }
    var isWritableData: Bool { isCodeOrData && type & 0xA == 2 }
    /// Data, or code that may be read.
    var isReadable: Bool { isCodeOrData && (type & 8 == 0 || type & 2 != 0) }

    var base: UInt64 { (low >> 16) & 0xFF_FFFF | (low >> 56) << 24 | high << 32 }
    var limit: UInt32 {
        let raw = UInt32(truncatingIfNeeded: low & 0xFFFF | (low >> 32) & 0xF_0000)
        return low & (1 << 55) != 0 ? raw << 12 | 0xFFF : raw
    }
    var attributes: UInt32 { UInt32(truncatingIfNeeded: (low >> 40) & 0xFF | ((low >> 52) & 0xF) << 12) }

    var gateSelector: UInt16 { UInt16(truncatingIfNeeded: low >> 16) }
    var gateOffset: UInt64 { low & 0xFFFF | (low >> 32) & 0xFFFF_0000 | high << 32 }
    var gateParameterCount: Int { Int((low >> 32) & 0x1F) }
    var interruptStack: UInt64 { (low >> 32) & 7 }

    func cache(selector: UInt16) -> SegmentCache {
        SegmentCache(base: base, limit: limit, attributes: attributes, selector: selector)
    }
}

/// Types of system descriptors (SDM vol. 3 table 3-2).
enum SystemType {
    static let availableTSS16: UInt8 = 1, ldt: UInt8 = 2, busyTSS16: UInt8 = 3, callGate16: UInt8 = 4
    static let taskGate: UInt8 = 5, interruptGate16: UInt8 = 6, trapGate16: UInt8 = 7
    static let availableTSS: UInt8 = 9, busyTSS: UInt8 = 0xB, callGate: UInt8 = 0xC
    static let interruptGate: UInt8 = 0xE, trapGate: UInt8 = 0xF
    /// Bit 1 of a TSS type: busy.
    static let busyBit: UInt8 = 2
    /// Bit 3: 32-bit (or 64-bit) format.
    static let wideBit: UInt8 = 8
}

extension Fault {
    /// #NP with a selector.
    static func notPresent(_ selector: UInt16) -> Fault {
        Fault(.segmentNotPresent, UInt32(selector & 0xFFFC))
    }
    /// #TS with a selector.
    static func invalidTSS(_ selector: UInt16) -> Fault { Fault(.invalidTSS, UInt32(selector & 0xFFFC)) }
    static func protection(selector: UInt16) -> Fault { .protection(UInt32(selector & 0xFFFC)) }
    static func stack(selector: UInt16) -> Fault { .stack(UInt32(selector & 0xFFFC)) }
}

extension CPU {
    /// Linear address of the descriptor that `selector` names; nil beyond its table's limit.
    func descriptorAddress(_ selector: UInt16, size: UInt32 = 8) -> UInt64? {
        let offset = UInt32(selector & 0xFFF8)
        if selector & 4 == 0 {
            return offset + size - 1 <= s.gdtLimit ? s.gdtBase &+ UInt64(offset) : nil
        }
        let table = s.segments[Segment.ldtr]
        guard table.attributes & SegmentAttributes.unusable == 0, offset + size - 1 <= table.limit else {
            return nil
        }
        return table.base &+ UInt64(offset)
    }

    /// The descriptor that `selector` names.
    /// - Throws: `vector`(selector) beyond the table's limit; #PF.
    func descriptor(_ selector: UInt16, or vector: ExceptionVector) throws(Fault) -> Descriptor {
        guard let address = descriptorAddress(selector) else {
            throw Fault(vector, UInt32(selector & 0xFFFC))
        }
        return Descriptor(low: try loadTable(UInt64.self, address), address: address)
    }

    /// Completes a system descriptor with its upper half, in long mode (SDM vol. 3 §5.8.3.1, §7.2.3).
    /// - Throws: `vector`(selector) when the upper half is outside the table or carries a type.
    func completed(
        _ descriptor: Descriptor, _ selector: UInt16, or vector: ExceptionVector
    ) throws(Fault) -> Descriptor {
        guard isLongMode else { return descriptor }
        let fault = Fault(vector, UInt32(selector & 0xFFFC))
        guard descriptorAddress(selector, size: 16) != nil else { throw fault }
        var whole = descriptor
        whole.high = try loadTable(UInt64.self, descriptor.address &+ 8)
        guard whole.high & (0x1F << 40) == 0 else { throw fault }
        whole.high &= 0xFFFF_FFFF
        return whole
    }

    /// Sets the accessed bit in memory and in `descriptor`.
    func markAccessed(_ descriptor: inout Descriptor) throws(Fault) {
        guard descriptor.low & (1 << 40) == 0 else { return }
        descriptor.low |= 1 << 40
        try storeTable(UInt8(truncatingIfNeeded: descriptor.low >> 40), descriptor.address &+ 5)
    }
}

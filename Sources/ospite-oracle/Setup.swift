@testable internal import SoftCPU
internal import COracle

/// Fixed places, the same on both sides.
enum Place {
    static let code = UInt64(ORACLE_CODE), codeSize = UInt64(ORACLE_CODE_SIZE)
    static let data = UInt64(ORACLE_DATA), dataSize = UInt64(ORACLE_DATA_SIZE)
    static let readOnlySize = UInt64(ORACLE_READ_ONLY_SIZE)
    /// Where the upper half of ESP comes from when SS is a 16-bit segment: IRET takes it from the old ESP.
    static let gate = UInt64(ORACLE_GATE)
    /// No instruction under test is put here: a jump to it ends at a breakpoint.
    static let landing = code + 0x900, landingSize: UInt64 = 0x400
}

/// A segment descriptor of the local table that both sides load.
struct DescriptorPlan {
    var base: UInt32
    /// 20 bits.
    var limit: UInt32
    /// As in `SegmentState.attributes`.
    var attributes: UInt32

    static let code: UInt32 = 0xFB, executeOnly: UInt32 = 0xF9, data: UInt32 = 0xF3, readOnly: UInt32 = 0xF1
    static let expandDown: UInt32 = 0xF7, absent: UInt32 = 0x73
    static let big: UInt32 = 0x4000, pages: UInt32 = 0x8000

    /// The entry as it stands in memory (SDM vol. 3 §3.4.5).
    var entry: UInt64 {
        UInt64(limit & 0xFFFF) | UInt64(base & 0xFF_FFFF) << 16 | UInt64(attributes & 0xFF) << 40
            | UInt64(limit >> 16 & 0xF) << 48 | UInt64(attributes >> 12 & 0xF) << 52 | UInt64(base >> 24)
            << 56
    }
    /// In bytes.
    var byteLimit: UInt32 { attributes & Self.pages != 0 ? limit << 12 | 0xFFF : limit }

    static let table: [DescriptorPlan] = [
        DescriptorPlan(base: 0, limit: 0xFFFFF, attributes: code | big | pages),
        DescriptorPlan(base: 0, limit: 0xFFFFF, attributes: data | big | pages),
        DescriptorPlan(base: UInt32(Place.code), limit: 0xFFFF, attributes: code),
        DescriptorPlan(base: UInt32(Place.data), limit: 0x1FFF, attributes: data),
        DescriptorPlan(base: UInt32(Place.data), limit: 0x1FFF, attributes: data | big),
        DescriptorPlan(base: 0x30, limit: 0xFFFFF, attributes: data | big | pages),
        DescriptorPlan(base: 0xFFFF_FFC0, limit: 0xFFFFF, attributes: data | big | pages),
        DescriptorPlan(base: UInt32(Place.data), limit: 0x2FFF, attributes: readOnly | big),
        DescriptorPlan(base: UInt32(Place.data), limit: 0x3FF, attributes: expandDown | big),
        DescriptorPlan(base: UInt32(Place.code), limit: 0x1FFF, attributes: executeOnly | big),
        DescriptorPlan(base: UInt32(Place.code) - 0x400, limit: 0x23FF, attributes: code | big),
        DescriptorPlan(base: UInt32(Place.data), limit: 0xFFFF, attributes: absent),
        DescriptorPlan(base: UInt32(Place.data) - 0x100, limit: 0xFFFF, attributes: data),
        DescriptorPlan(base: UInt32(Place.data), limit: 0x3FF, attributes: expandDown),
    ]
    static func selector(_ entry: UInt16) -> UInt16 { entry << 3 | 7 }
}

enum OracleMode: Int, CaseIterable {
    case bits64 = 64, bits32 = 32, bits16 = 16
    var codeMode: CodeMode {
        switch self {
        case .bits64: .bits64
        case .bits32: .bits32
        case .bits16: .bits16
        }
    }
    var registerMask: UInt64 { self == .bits64 ? .max : 0xFFFF_FFFF }
}

/// One choice of segment registers.
struct Setup {
    var mode: OracleMode
    /// ES, CS, SS, DS, FS, GS.
    var selectors: [UInt16]
    /// Linear base of each.
    var bases: [UInt64]
    /// SS has 16-bit stack pointers.
    var narrowStack = false

    static let user64: UInt16 = 0x33
    private static let user32: UInt16 = 0x23, userData: UInt16 = 0x2B

    private static func local(_ mode: OracleMode, _ entries: [UInt16], narrowStack: Bool = false) -> Setup {
        Setup(
            mode: mode, selectors: entries.map { DescriptorPlan.selector($0) },
            bases: entries.map { UInt64(DescriptorPlan.table[Int($0)].base) }, narrowStack: narrowStack)
    }

    static let all: [Setup] = [
        Setup(
            mode: .bits64, selectors: [0, user64, userData, 0, 0, 0],
            bases: [0, 0, 0, 0, 0x30, 0xFFFF_FFFF_FFFF_FFC0]),
        Setup(
            mode: .bits32,
            selectors: [
                userData, user32, userData, userData, DescriptorPlan.selector(5), DescriptorPlan.selector(6),
            ], bases: [0, 0, 0, 0, 0x30, 0xFFFF_FFC0]),
        local(.bits32, [12, 10, 4, 4, 8, 7]),
        local(.bits32, [12, 9, 3, 7, 4, 13], narrowStack: true),
        local(.bits16, [12, 2, 3, 3, 13, 7], narrowStack: true),
        local(.bits16, [1, 2, 1, 4, 5, 6]),
    ]
}

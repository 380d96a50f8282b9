internal import COracle
@testable internal import SoftCPU

/// Counts that the forked workers share: per row how often it was the case's subject, how often such a case
/// ran to its end, and how often the sides differed.
@safe struct Tally: @unchecked Sendable {
    private let words: UnsafeMutablePointer<UInt64>
    private static var rows: Int { InstructionRow.count }

    init() throws {
        let bytes = UInt64(Self.rows * 3 + 8) * 8
        guard let memory = unsafe oracle_shared(bytes) else { throw OracleError("no memory to share") }
        // SAFETY: zeroed, and large enough for three counts per row and a few more.
        unsafe words = memory.assumingMemoryBound(to: UInt64.self)
    }

    private func add(_ slot: Int) {
        // SAFETY: slots are row numbers below the allocation's size. Lost updates of two workers cost a
        // count, no more.
        unsafe words[slot] &+= 1
    }

    private func value(_ slot: Int) -> UInt64 { unsafe words[slot] }

    func record(_ row: UInt16, completed: Bool, differed: Bool) {
        add(Int(row) * 3)
        if completed { add(Int(row) * 3 + 1) }
        if differed { add(Int(row) * 3 + 2) }
    }

    func cases(_ row: UInt16) -> UInt64 { value(Int(row) * 3) }
    func completed(_ row: UInt16) -> UInt64 { value(Int(row) * 3 + 1) }
    func differed(_ row: UInt16) -> UInt64 { value(Int(row) * 3 + 2) }
    var total: UInt64 { (0..<Self.rows).reduce(0) { $0 &+ cases(UInt16($1)) } }
    var mismatches: UInt64 { (0..<Self.rows).reduce(0) { $0 &+ differed(UInt16($1)) } }

    /// Rows that neither ran nor are excluded by name.
    func missing() -> [UInt16] {
        (0..<UInt16(Self.rows)).filter {
            cases($0) == 0 && Exclusions.reason(InstructionRow(index: $0).mnemonic) == nil
        }
    }
}

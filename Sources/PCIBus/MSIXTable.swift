internal import DeviceModel

/// The MSI-X table, pending bits and control of one function (PCI 3.0 §6.8.2).
/// ```
///  table entry                          offset
/// +------------------------------------+ 0   message address
/// | address, upper address             |
/// +------------------------------------+ 8
/// | data             | vector control  |     bit 0 of the control: masked
/// +------------------------------------+ 16
/// ```
/// Confinement: a value; its owner locks.
struct MSIXTable {
    static let entrySize = 16
    private static let maskBit: UInt32 = 1

    let vectors: Int
    private(set) var words: [UInt32]
    private(set) var pending: [UInt64]
    private(set) var isEnabled = false
    private(set) var isFunctionMasked = false

    init(vectors: Int) {
        precondition((0...2048).contains(vectors), "MSI-X has at most 2048 vectors")
        self.vectors = vectors
        words = []
        pending = []
        reset()
    }

    /// Every vector masked, nothing pending, MSI-X off.
    mutating func reset() {
        words = [UInt32](repeating: 0, count: vectors * 4)
        for vector in 0..<vectors { words[vector * 4 + 3] = Self.maskBit }
        pending = [UInt64](repeating: 0, count: (vectors + 63) / 64)
        isEnabled = false
        isFunctionMasked = false
    }

    private func isMasked(_ vector: Int) -> Bool {
        isFunctionMasked || words[vector * 4 + 3] & Self.maskBit != 0
    }

    private func message(_ vector: Int) -> MSIMessage {
        let word = vector * 4
        return MSIMessage(
            address: UInt64(words[word] & ~3) | UInt64(words[word + 1]) << 32, data: words[word + 2])
    }

    /// The message to send now, or nil: no such vector, MSI-X off, or masked (then it becomes pending).
    mutating func signal(_ vector: Int) -> MSIMessage? {
        guard isEnabled, vector >= 0, vector < vectors else { return nil }
        guard isMasked(vector) else { return message(vector) }
        pending[vector / 64] |= 1 << UInt64(vector % 64)
        return nil
    }

    /// What became deliverable by an unmasking; clears those pending bits.
    private mutating func takeUnmasked() -> [MSIMessage] {
        guard isEnabled, !isFunctionMasked, pending.contains(where: { $0 != 0 }) else { return [] }
        var messages: [MSIMessage] = []
        for vector in 0..<vectors where pending[vector / 64] >> UInt64(vector % 64) & 1 != 0 {
            guard !isMasked(vector) else { continue }
            pending[vector / 64] &= ~(1 << UInt64(vector % 64))
            messages.append(message(vector))
        }
        return messages
    }

    mutating func setControl(enabled: Bool, functionMasked: Bool) -> [MSIMessage] {
        isEnabled = enabled
        isFunctionMasked = functionMasked
        return takeUnmasked()
    }

    /// Bytes of the table; any width and alignment, zero beyond the end.
    func readTable(offset: UInt64, width: AccessWidth) -> UInt64 {
        assemble(offset, width) { byte in
            byte < UInt64(words.count * 4)
                ? UInt8(truncatingIfNeeded: words[Int(byte / 4)] >> UInt32(8 * (byte % 4))) : 0
        }
    }

    /// Bytes of the pending bit array, likewise.
    func readPending(offset: UInt64, width: AccessWidth) -> UInt64 {
        assemble(offset, width) { byte in
            byte < UInt64(pending.count * 8)
                ? UInt8(truncatingIfNeeded: pending[Int(byte / 8)] >> (8 * (byte % 8))) : 0
        }
    }

    private func assemble(_ offset: UInt64, _ width: AccessWidth, _ byte: (UInt64) -> UInt8) -> UInt64 {
        var value: UInt64 = 0
        for index in 0..<UInt64(width.bytes) { value |= UInt64(byte(offset &+ index)) << (8 * index) }
        return value
    }

    /// A store to the table; odd sizes are merged byte by byte, which the specification leaves undefined.
    mutating func writeTable(offset: UInt64, width: AccessWidth, value: UInt64) -> [MSIMessage] {
        for index in 0..<UInt64(width.bytes) {
            let byte = offset &+ index
            guard byte < UInt64(words.count * 4) else { break }
            let word = Int(byte / 4)
            let shift = UInt32(8 * (byte % 4))
            let field = UInt32(truncatingIfNeeded: value >> (8 * index)) & 0xFF
            words[word] = (words[word] & ~(0xFF << shift)) | field << shift
            // Reserved bits of the vector control stay zero.
            if word % 4 == 3 { words[word] &= Self.maskBit }
        }
        return takeUnmasked()
    }

    /// False, and no change, when the arrays are not of this table's size.
    mutating func restore(words saved: [UInt32], pending savedPending: [UInt64]) -> Bool {
        guard saved.count == words.count, savedPending.count == pending.count else { return false }
        words = saved
        for vector in 0..<vectors { words[vector * 4 + 3] &= Self.maskBit }
        pending = savedPending
        if vectors % 64 != 0, let last = pending.indices.last {
            pending[last] &= (1 << UInt64(vectors % 64)) - 1
        }
        return true
    }
}

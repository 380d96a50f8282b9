import Testing

@testable import SoftCPU

/// Our decoder against Zydis, on strings of every row and on chance.
@Suite struct DecoderReferenceTests {
    static let modes: [CodeMode] = [.bits16, .bits32, .bits64]

    /// Differences by what differs, with the first example of each.
    struct Ledger {
        var counts: [String: Int] = [:]
        var examples: [String: String] = [:]
        var compared = 0
        mutating func note(_ what: String, _ bytes: [UInt8], _ mode: CodeMode) {
            counts[what, default: 0] += 1
            if examples[what] == nil {
                examples[what] = "\(mode.defaultSize) " + bytes.map(hexadecimal).joined(separator: " ")
            }
        }
        var report: String {
            counts.sorted { $0.value > $1.value }.prefix(60)
                .map { "\($0.value) x \($0.key): \(examples[$0.key] ?? "")" }.joined(separator: "\n")
        }
    }

    static func hexadecimal(_ byte: UInt8) -> String {
        (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
    }

    static func compare(
        _ bytes: [UInt8], _ mode: CodeMode, _ reference: ReferenceDecoder, _ ledger: inout Ledger
    ) {
        ledger.compared += 1
        let ours: Instruction
        do throws(DecodeFailure) {
            ours = try Decoder().decode(InstructionBytes(bytes), mode: mode)
        } catch {
            guard let theirs = try? reference.decode(bytes) else { return }
            if DecoderDisagreements.onlyTheirs(theirs, bytes, mode) { return }
            return ledger.note("\(error), reference \(theirs.mnemonic) (\(theirs.isaExtension))", bytes, mode)
        }
        do throws(ReferenceDecoder.Failure) {
            let theirs = try reference.decode(bytes)
            guard let difference = DecoderComparison.difference(ours, theirs),
                !DecoderDisagreements.isKnown(difference, ours, theirs, mode)
            else { return }
            ledger.note("\(ours.mnemonic.name)/\(theirs.mnemonic): \(difference)", bytes, mode)
        } catch {
            if DecoderDisagreements.onlyOurs(ours, mode) { return }
            ledger.note("\(ours.mnemonic.name), reference \(error)", bytes, mode)
        }
    }

    @Test func `every row decodes as the reference decodes it`() {
        var hit = [Bool](repeating: false, count: InstructionRow.count)
        var ledger = Ledger(), corpus = DecoderCorpus(seed: 1)
        for mode in Self.modes {
            let reference = ReferenceDecoder(mode: mode)
            if reference == nil { print("Zydis 4.0 is not installed: rows are only counted, not compared") }
            for number in 0..<InstructionRow.count {
                for _ in 0..<100 {
                    let bytes = corpus.string(of: InstructionRow(index: UInt16(number)), mode: mode)
                    if let ours = try? Decoder().decode(InstructionBytes(bytes), mode: mode) {
                        hit[Int(ours.row)] = true
                    }
                    if let reference { Self.compare(bytes, mode, reference, &ledger) }
                }
            }
        }
        let missed = hit.indices.filter { !hit[$0] }
            .map { "\(InstructionRow(index: UInt16($0)).mnemonic.name) (row \($0))" }
        print("\(ledger.compared) strings of \(hit.count) rows compared")
        #expect(missed.isEmpty, "rows that nothing reaches")
        #expect(ledger.counts.isEmpty, "\(ledger.report)")
    }

    @Test(arguments: [0, 1, 2])
    func `random bytes decode as the reference decodes them`(mode: Int) {
        guard let reference = ReferenceDecoder(mode: Self.modes[mode]) else {
            return print("Zydis 4.0 is not installed: random bytes are not compared")
        }
        var ledger = Ledger(), corpus = DecoderCorpus(seed: 2 + UInt64(mode))
        for _ in 0..<150_000 { Self.compare(corpus.randomString(), Self.modes[mode], reference, &ledger) }
        print("\(ledger.compared) random strings compared")
        #expect(ledger.counts.isEmpty, "\(ledger.report)")
    }
}

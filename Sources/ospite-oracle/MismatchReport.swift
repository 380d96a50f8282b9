internal import COracle
@testable internal import SoftCPU

/// What a person needs to see of a case in which the sides differ.
enum MismatchReport {
    static func text(_ test: OracleCase, _ differences: [Difference], seed: UInt64, index: UInt64) -> String {
        let setup = Setup.all[test.setup]
        var lines = [
            "MISMATCH  repeat: ospite-oracle --mode \(setup.mode.rawValue) --seed \(seed) --case \(index)"
        ]
        for instruction in test.instructions {
            let row = InstructionRow(index: instruction.row)
            let hex = instruction.bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(
                separator: " ")
            let name = instruction.decoded.map { "\($0.mnemonic)" } ?? "(padding or #UD near \(row.mnemonic))"
            lines.append("  row \(instruction.row)  \(name)  [\(hex)]")
        }
        var registers: [String] = []
        withUnsafeBytes(of: test.input.gpr) { source in
            for number in 0..<(setup.mode == .bits64 ? 16 : 8) {
                // SAFETY: sixteen words.
                let value = unsafe source.loadUnaligned(fromByteOffset: number * 8, as: UInt64.self)
                registers.append("\(Comparison.registerNames[number])=\(String(value, radix: 16))")
            }
        }
        lines.append(
            "  setup \(test.setup)  rip=\(String(test.input.rip, radix: 16))"
                + "  rflags=\(String(test.input.rflags, radix: 16))")
        lines.append("  " + registers.joined(separator: " "))
        if test.extended {
            let words = Comparison.normalised(test.input)
            let mxcsr = String(words[3], radix: 16)
            lines.append("  x87=\(String(words[0], radix: 16)) mxcsr=\(mxcsr)")
        }
        for difference in differences {
            lines.append("  \(difference.field): host \(difference.host), ours \(difference.ours)")
        }
        return lines.joined(separator: "\n")
    }
}

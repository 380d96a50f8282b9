internal import COracle
internal import Glibc
@testable internal import SoftCPU

/// Compares `--cases` cases of one seed in this process: those whose number is `worker` modulo the workers.
func work(_ worker: Int, _ options: Options, seed: UInt64, _ tally: Tally) throws -> Bool {
    let oracle = try Oracle(translated: options.translated, verified: options.verified)
    var shown = 0
    var seen: Set<Mnemonic> = []
    var agreed = true
    for mode in options.modes {
        let generator = CaseGenerator(seed: seed, mode: mode, only: options.row)
        if generator.rows.isEmpty { continue }
        let range = options.only.map { $0..<($0 + 1) } ?? 0..<options.share(mode)
        let first = options.only == nil ? range.lowerBound + UInt64(worker) : range.lowerBound
        for index in stride(from: first, to: range.upperBound, by: options.workers) {
            guard let test = generator.make(index) else { continue }
            let (differences, host) = oracle.run(test, seed: seed, index: index)
            let completed = host.vector == UInt32(ORACLE_REACHED_END)
            tally.record(test.primaryRow, completed: completed, differed: !differences.isEmpty)
            if options.only != nil, differences.isEmpty {
                print(MismatchReport.text(test, [], seed: seed, index: index))
                print("  both agree; vector \(host.vector), rip \(String(host.rip, radix: 16))")
            }
            guard !differences.isEmpty else { continue }
            agreed = false
            if shown >= options.shown { continue }
            let small = oracle.shrink(test, seed: seed, index: index)
            // One of each kind is enough to read.
            let culprit = small.instructions.last.map { InstructionRow(index: $0.row).mnemonic }
            guard let culprit, seen.insert(culprit).inserted else { continue }
            shown += 1
            let again = oracle.run(small, seed: seed, index: index).differences
            print(MismatchReport.text(small, again.isEmpty ? differences : again, seed: seed, index: index))
            fflush(nil)
        }
    }
    for line in oracle.soft.vcpu.statistics where options.verified { print(line) }
    return agreed
}

/// One seed in forked workers; true when all agreed.
func runSeed(_ options: Options, seed: UInt64, _ tally: Tally) throws -> Bool {
    // A single case runs in this process, within a debugger's reach.
    if options.only != nil { return try work(0, options, seed: seed, tally) }
    fflush(nil)
    var children: [Int32] = []
    for worker in 0..<options.workers {
        let child = oracle_fork()
        if child < 0 { throw OracleError("cannot fork") }
        if child == 0 {
            do {
                let agreed = try work(worker, options, seed: seed, tally)
                fflush(nil)
                _exit(agreed ? 0 : 1)
            } catch {
                print("worker \(worker): \(error)")
                fflush(nil)
                _exit(2)
            }
        }
        children.append(child)
    }
    var agreed = true
    for child in children {
        let status = oracle_wait(child)
        if status > 1 {
            print("a worker ended with \(status >= 256 ? "signal \(status - 256)" : "error \(status)")")
        }
        agreed = agreed && status == 0
    }
    return agreed
}

func printRows(_ tally: Tally) {
    print("row mnemonic cases completed differed")
    for row in 0..<UInt16(InstructionRow.count) {
        let mnemonic = InstructionRow(index: row).mnemonic
        if let reason = Exclusions.reason(mnemonic) {
            print("\(row) \(mnemonic) excluded: \(reason)")
        } else {
            print("\(row) \(mnemonic) \(tally.cases(row)) \(tally.completed(row)) \(tally.differed(row))")
        }
    }
}

func runAll(_ options: Options) throws -> Bool {
    let tally = try Tally()
    var seed = options.seed
    var agreed = true
    repeat {
        agreed = try runSeed(options, seed: seed, tally) && agreed
        if options.forever { print("seed \(seed): \(tally.total) cases, \(tally.mismatches) mismatches") }
        fflush(nil)
        seed &+= 1
    } while options.forever && agreed
    if options.report { printRows(tally) }
    let missing = tally.missing()
    print(
        "\(tally.total) cases, \(tally.mismatches) mismatches, \(missing.count) rows neither run nor excluded"
    )
    let complete = options.row != nil || options.only != nil || options.modes.count < 3 || missing.isEmpty
    if !complete { print("missing rows: \(missing.map { "\($0) \(InstructionRow(index: $0).mnemonic)" })") }
    return agreed && complete
}

do {
    let options = try Options(Array(CommandLine.arguments.dropFirst()))
    exit(try runAll(options) ? 0 : 1)
} catch {
    print("\(error)")
    exit(2)
}

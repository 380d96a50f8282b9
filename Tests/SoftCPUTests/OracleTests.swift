import Foundation
import Testing

/// Runs the comparison with the host's processor as a program of its own: it forks, and takes over signals
/// and descriptor tables.
@Suite struct OracleTests {
    /// The program beside the test bundle.
    private func program() throws -> URL {
        var folder = URL(fileURLWithPath: CommandLine.arguments[0]).resolvingSymlinksInPath()
        for _ in 0..<6 {
            folder.deleteLastPathComponent()
            let candidate = folder.appendingPathComponent("ospite-oracle")
            if FileManager.default.isExecutableFile(atPath: candidate.path) { return candidate }
        }
        let fallback = URL(fileURLWithPath: FileManager.default.currentDirectoryPath)
            .appendingPathComponent(".build/release/ospite-oracle")
        try #require(
            FileManager.default.isExecutableFile(atPath: fallback.path), "ospite-oracle is not built")
        return fallback
    }

    private func run(_ arguments: [String]) throws -> (status: Int32, output: String) {
        let process = Process()
        process.executableURL = try program()
        process.arguments = arguments
        let pipe = Pipe()
        process.standardOutput = pipe
        try process.run()
        let output = try pipe.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: output, as: UTF8.self))
    }

    @Test func `two million random cases agree with the host's processor, every row among them`() throws {
        let (status, output) = try run(["--cases", "2100000", "--seed", "1", "--shown", "4"])
        #expect(status == 0, Comment(rawValue: output))
        #expect(output.contains(" 0 mismatches, 0 rows neither run nor excluded"))
        let cases = output.split(separator: " ").first.flatMap { Int($0) } ?? 0
        #expect(cases >= 2_000_000)
    }

    @Test(arguments: [64, 32, 16])
    func `translated code agrees with the host's processor in half a million cases`(bits: Int) throws {
        let (status, output) = try run(
            ["--translated", "--mode", "\(bits)", "--cases", "500000", "--seed", "2", "--shown", "4"])
        #expect(status == 0, Comment(rawValue: output))
        #expect(output.contains(" 0 mismatches"))
        let cases = output.split(separator: " ").first.flatMap { Int($0) } ?? 0
        #expect(cases >= 480_000)
    }

    /// What the host's processor does besides is the business of the tests above.
    @Test func `translated code agrees with the interpreter in a hundred thousand cases`() throws {
        let (_, output) = try run(
            ["--verify", "--mode", "64", "--cases", "100000", "--seed", "5", "--shown", "0"])
        #expect(!output.contains("translated code does not"), Comment(rawValue: output))
        let agreed = output.split(separator: "\n").filter { $0.hasSuffix("; 0 differences") }
        #expect(agreed.count == 2, Comment(rawValue: output))
        let checks = output.matches(of: /blocks checked in (\d+) checks/).compactMap { Int($0.output.1) }
        #expect(checks.reduce(0, +) > 60_000, Comment(rawValue: output))
    }

    @Test func `a single case can be repeated`() throws {
        let (status, output) = try run(["--mode", "64", "--seed", "1", "--case", "1"])
        #expect(status == 0)
        #expect(output.contains("both agree"))
    }
}

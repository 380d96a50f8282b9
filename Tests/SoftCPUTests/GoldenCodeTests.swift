import Foundation
import Testing
import X86Architecture

@testable import SoftCPU

/// The pinned host code of guest instructions and sequences, so that a change of code generation is a
/// difference to read. `make golden` writes it anew.
@Suite struct GoldenCodeTests {
    private static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("Golden")
    static let files = [
        "avx", "branches", "code16", "code32", "flags", "integer", "locked", "memory", "memory-changes",
        "memory-groups", "stack", "system", "vector",
    ]

    private static func url(_ file: String) -> URL { folder.appendingPathComponent("\(file).txt") }

    private static func options(_ names: Set<String>) throws -> (TranslationOptions, isUngrouped: Bool) {
        var options: TranslationOptions = [], isUngrouped = false
        for name in names {
            switch name {
            case "counts": options.insert(.counts)
            case "exactFlags": options.insert(.exactFlags)
            case "ungrouped": isUngrouped = true
            case "bits16", "bits32", "edge": break
            default: throw GoldenFile.Malformed(line: "options: \(name)")
            }
        }
        return (options, isUngrouped)
    }

    /// Translates `block` in a machine of its own.
    private static func hostCode(
        _ block: GoldenFile.Block, _ formatter: ReferenceFormatter
    ) throws -> [String] {
        let (options, isUngrouped) = try options(block.options)
        let mode: TestMachine.Mode =
            block.options.contains("bits16")
            ? .real : block.options.contains("bits32") ? .protected32 : .long64
        let machine = try TestMachine(mode, threshold: 1, options: options) { state in
            guard mode == .real else { return }
            // At an edge its segment begins in the page of the code.
            state.segments[1].base = TestMachine.code + (block.options.contains("edge") ? 16 : 0)
        }
        let start = TestMachine.code + UInt64(block.pageOffset)
        machine.write(start, (block.code + block.behind).flatMap { $0 })
        machine.cpu.s.rip = mode == .real ? start - machine.cpu.s.segments[Segment.cs].base : start
        let view = BlockView(address: try machine.vcpu.findBlock(singleStep: false))
        guard Int(view.b.instructionCount) >= block.code.count else {
            return ["    (a block of \(view.b.instructionCount) instructions)"]
        }
        view.b.instructionCount = UInt16(block.code.count)
        view.b.isUngrouped = isUngrouped
        let cache = try #require(machine.vcpu.translations)
        guard machine.vcpu.translate(view, cache) else { return ["    (left to the interpreter)"] }
        let end = cache.arena.start + UInt(cache.arena.used)
        return HostCodeListing(
            formatter, code: view.b.code..<end, gates: cache.gates, block: view
        ).text
    }

    @Test(arguments: files)
    func `guest code becomes the pinned host code`(file: String) throws {
        guard let formatter = ReferenceFormatter() else {
            return print("Zydis 4.0 is not installed: the host code in Golden/\(file).txt is not compared")
        }
        let features = HostFeatures.shared
        guard features.canTranslate else {
            return print("This host cannot translate: Golden/\(file).txt is not compared")
        }
        let hasVectors = [.sse3, .ssse3, .sse41, .avx2, .fma].allSatisfy {
            features.contains($0, isVEX: $0 == .avx2 || $0 == .fma)
        }
        if file == "avx" || file == "vector", !hasVectors {
            return print("This host has no AVX2 and FMA: Golden/\(file).txt is not compared")
        }
        let pinned = try String(contentsOf: Self.url(file), encoding: .utf8)
        let golden = try GoldenFile(pinned)
        let guest = ReferenceFormatter(bits: file == "code16" ? 16 : file == "code32" ? 32 : 64)
        let actual = try golden.text(formatter, guest: guest) { try Self.hostCode($0, formatter) }
        if ProcessInfo.processInfo.environment["OSPITE_BLESS"] == "1" {
            try actual.write(to: Self.url(file), atomically: true, encoding: .utf8)
            if let difference = TextDifference.between(pinned, actual, named: "\(file).txt") {
                print(difference)
            }
            return
        }
        if let difference = TextDifference.between(pinned, actual, named: "\(file).txt") {
            Issue.record(
                """
                The host code changed. When that is meant, run `make golden` and commit the difference:
                \(difference)
                """)
        }
    }

    @Test func `the files hold a hundred blocks, and there are no others`() throws {
        let found = try FileManager.default.contentsOfDirectory(atPath: Self.folder.path).sorted()
        #expect(found == Self.files.map { "\($0).txt" }.sorted())
        var blocks = 0
        for file in Self.files {
            let text = try String(contentsOf: Self.url(file), encoding: .utf8)
            let golden = try GoldenFile(text)
            blocks += golden.blocks.count
            #expect(golden.blocks.allSatisfy { !$0.code.isEmpty })
            for wrong in ["(outside)", "window: unknown", "(byte"] { #expect(!text.contains(wrong)) }
        }
        #expect(blocks >= 100)
    }

    @Test func `a changed instruction shows as a line less and a line more`() throws {
        let old = (1...20).map { "line \($0)" }.joined(separator: "\n")
        #expect(TextDifference.between(old, old, named: "x") == nil)
        let new = old.replacing("line 9\n", with: "another\n")
        let difference = try #require(TextDifference.between(old, new, named: "x"))
        #expect(
            difference == """
                --- x, as it was
                +++ x, as it is now
                @@ line 6 @@
                 line 6
                 line 7
                 line 8
                -line 9
                +another
                 line 10
                 line 11
                 line 12
                """)
    }

    @Test func `other host code is noticed`() throws {
        guard let formatter = ReferenceFormatter() else {
            return print("Zydis 4.0 is not installed: nothing is compared")
        }
        try #require(HostFeatures.shared.canTranslate, "this host cannot translate")
        let golden = try GoldenFile("== one\n    48 01 D8  add rax, rbx\n----\n    add r14, rcx\n")
        let actual = try golden.text(formatter) { try Self.hostCode($0, formatter) }
        #expect(actual.contains("\n    add r14, rbx\n"))
        let pinned = actual.replacing("add r14, rbx", with: "add r14, rcx")
        let difference = try #require(TextDifference.between(pinned, actual, named: "one"))
        #expect(difference.contains("\n-    add r14, rcx\n+    add r14, rbx\n"))
    }
}

import Foundation
import Testing

/// The rules of the house that a machine can check (ARCHITECTURE.md). Each test names the files that break
/// its rule.
@Suite struct TidyTests {
    private let repository = Repository.shared

    private func report(_ offences: [String]) -> Comment {
        Comment(rawValue: offences.joined(separator: "\n"))
    }

    @Test func `the sources were found`() {
        #expect(repository.swiftFiles(inSources: true).count > 40)
    }

    @Test func `imports only point down`() {
        var offences: [String] = []
        for file in repository.swiftFiles(inSources: true) {
            guard let target = file.target, let floor = floorTable[target] else { continue }
            for module in imports(of: file) {
                if let other = floorTable[module] {
                    if other > floor { offences.append("\(file.path): \(module) is on floor \(other)") }
                } else if floor < firstFreeFloor || smallPrograms.contains(target),
                    !systemModules.contains(module)
                {
                    offences.append(
                        "\(file.path): \(module) may only be used from floor \(firstFreeFloor) on")
                }
            }
        }
        #expect(offences.isEmpty, report(offences))
    }

    @Test func `pure targets do not touch the host`() {
        let host: Set<String> = ["Glibc", "LinuxHost", "CLinux", "CKVM", "CGate", "Foundation"]
        let offences = repository.swiftFiles(inSources: true)
            .filter { pureTargets.contains($0.target ?? "") && !host.isDisjoint(with: imports(of: $0)) }
            .map(\.path)
        #expect(offences.isEmpty, report(offences))
    }

    @Test func `every target has a floor`() throws {
        let manifest = try #require(repository.files.first { $0.path == "Package.swift" }).text
        let declared = manifest.matches(of: /(?:library\(\s*|(?:executableT|\.t)arget\(\s*name: )"([^"]+)"/)
            .map { String($0.output.1) }
        let folders = Set(repository.files.filter { $0.path.hasPrefix("Sources/") }.compactMap(\.target))
        #expect(declared.count > 20)
        let missing = folders.union(declared).subtracting(floorTable.keys)
        #expect(missing.isEmpty, "Give these a row in FloorTable.swift: \(missing.sorted())")
        let gone = Set(floorTable.keys).subtracting(declared)
        #expect(gone.isEmpty, "FloorTable.swift names targets that Package.swift has not: \(gone.sorted())")
    }

    @Test func `files have at most 1000 lines`() {
        let offences = repository.files
            .filter { $0.path.hasPrefix("Sources/") || $0.path.hasPrefix("Tests/") }
            .filter { !$0.isGenerated && !$0.path.hasSuffix(".table") && $0.lines.count > 1001 }
            .map { "\($0.path): \($0.lines.count - 1) lines" }
        #expect(offences.isEmpty, report(offences))
    }

    @Test func `functions have at most 60 lines`() {
        var offences: [String] = []
        for file in repository.swiftFiles() where !file.isGenerated {
            for long in SourceText(file.text).functions(longerThan: 60) {
                offences.append("\(file.path):\(long.line): \(long.length) lines")
            }
        }
        #expect(offences.isEmpty, report(offences))
    }

    @Test func `lines have at most 110 characters`() {
        var offences: [String] = []
        for file in repository.swiftFiles() where !file.isGenerated {
            for (number, line) in file.lines.enumerated() where line.count > 110 {
                offences.append("\(file.path):\(number + 1): \(line.count) characters")
            }
        }
        #expect(offences.isEmpty, report(offences))
    }

    @Test func `names say what a thing is`() {
        let banned: Set<String> = ["Utils", "Util", "Common", "Helper", "Helpers", "Base", "Misc"]
        var offences: [String] = []
        for file in repository.swiftFiles() {
            for part in file.path.dropLast(".swift".count).split(separator: "/")
            where !banned.isDisjoint(with: words(of: part)) {
                offences.append(file.path)
            }
            for line in file.code {
                guard let name = declaredType(in: line), !specificationNames.contains(name) else { continue }
                if !banned.isDisjoint(with: words(of: name[...])) { offences.append("\(file.path): \(name)") }
            }
        }
        #expect(offences.isEmpty, report(offences))
    }

    @Test func `unsafe code is only in the listed places and argues each use`() {
        var offences: [String] = []
        for file in repository.swiftFiles(inSources: true) {
            let uses = file.code.contains { identifiers(in: $0).contains("unsafe") }
            guard uses else { continue }
            let isListed = unsafePlaces.contains {
                $0.hasSuffix("/") ? file.path.hasPrefix($0) : file.path == $0
            }
            if !isListed { offences.append("\(file.path): not listed in FloorTable.swift") }
            if !file.text.contains("SAFETY:"), !file.text.contains("- Safety:") {
                offences.append("\(file.path): no SAFETY: comment")
            }
        }
        #expect(offences.isEmpty, report(offences))
    }

    @Test func `the list of unsafe places names what exists`() {
        let stale = unsafePlaces.filter { place in !repository.files.contains { $0.path.hasPrefix(place) } }
        #expect(stale.isEmpty, report(stale))
    }

    @Test func `nothing is left for later`() {
        // The words are put together here, so that this file does not offend.
        let marks = ["TO" + "DO", "FIX" + "ME", "XX" + "X:", "HA" + "CK", "fatal" + "Error("]
        let offences = offenders(containing: marks) { $0.hasPrefix("Sources/") || $0.hasPrefix("Tests/") }
        #expect(offences.isEmpty, report(offences))
    }

    @Test func `no file knows the machine or the tools that it was written with`() {
        let places = ["/wor" + "k/", "/ro" + "ot/", "/Use" + "rs/", "/ho" + "me/"]
        let tools = ["cla" + "ude", "anthro" + "pic", "chat" + "gpt", "co" + "pilot", "open" + "ai"]
        let strangers = ["Copy" + "right (", "Copy" + "right ©", "SPDX-" + "License"]
        let offences = offenders(containing: places + tools + strangers) { $0 != "LICENSE" }
        #expect(offences.isEmpty, report(offences))
    }

    @Test func `headers of C shims only declare`() {
        let offences = repository.files
            .filter { $0.path.hasPrefix("Sources/") && $0.path.hasSuffix(".h") }
            .filter { $0.text.contains("define _GNU_SOURCE") }
            .map(\.path)
        #expect(offences.isEmpty, report(offences))
    }

    @Test func `the scanner sees code and nothing else`() {
        let text = SourceText(
            #"""
            let a = "func \(b("}")) {" // unsafe
            /* unsafe /* { */ */ func short() { "{" }
            """#)
        #expect(text.lines[0].contains("b("))
        #expect(!text.lines.joined().contains("unsafe"))
        #expect(text.functions(longerThan: 1).isEmpty)
        let long = SourceText("func f() {\n" + String(repeating: "x()\n", count: 61) + "}\n")
        #expect(long.functions(longerThan: 60).map(\.length) == [63])
    }

    // MARK: - Reading

    private func imports(of file: Repository.File) -> Set<String> {
        var modules: Set<String> = []
        let kinds: Set<Substring> = [
            "func", "struct", "class", "enum", "protocol", "var", "let", "typealias",
        ]
        for line in file.code where line.contains("import ") {
            let words = identifiers(in: line)
            guard let place = words.firstIndex(of: "import"), place <= 3 else { continue }
            if let module = words[(place + 1)...].first(where: { !kinds.contains($0) }) {
                modules.insert(String(module))
            }
        }
        return modules
    }

    private func identifiers(in line: Substring) -> [Substring] {
        line.split { !($0.isLetter || $0.isNumber || $0 == "_") }
    }

    /// The type that a line of code declares or extends.
    private func declaredType(in line: Substring) -> String? {
        let kinds: Set<Substring> = [
            "struct", "class", "enum", "protocol", "actor", "extension", "typealias",
        ]
        let words = identifiers(in: line)
        guard let place = words.firstIndex(where: kinds.contains) else { return nil }
        return words.dropFirst(place + 1).first.map { String($0) }
    }

    /// "HTTPCommonParser" is HTTP, Common, Parser; what is not written as in a type name is one word.
    private func words(of name: Substring) -> Set<String> {
        Set(name.matches(of: /[A-Z]+(?![a-z])|[A-Z][a-z0-9]+/).map { String($0.output) })
    }

    private func offenders(containing marks: [String], where isMeant: (String) -> Bool) -> [String] {
        var offences: [String] = []
        for file in repository.files where isMeant(file.path) {
            let text = file.text
            for mark in marks where text.range(of: mark, options: .caseInsensitive) != nil {
                offences.append("\(file.path): \(mark)")
            }
        }
        return offences
    }
}

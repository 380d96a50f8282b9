/// A Swift file with comments and the text of strings blanked out, so that a search finds code only. Lines
/// stay where they are.
struct SourceText {
    let lines: [Substring]

    init(_ text: String) {
        var blanker = Blanker(source: Array(text.utf8))
        blanker.run()
        lines = String(decoding: blanker.code, as: UTF8.self).split(
            separator: "\n", omittingEmptySubsequences: false)
    }

    /// Functions, initialisers and subscripts that are longer than `limit` lines: first line and length.
    func functions(longerThan limit: Int) -> [(line: Int, length: Int)] {
        var found: [(Int, Int)] = []
        for (start, line) in lines.enumerated() where Self.beginsFunction(line) {
            var depth = 0, hasBody = false
            search: for (offset, body) in lines[start...].enumerated() {
                for character in body.utf8 {
                    if character == UInt8(ascii: "{") {
                        depth += 1
                        hasBody = true
                    }
                    if character == UInt8(ascii: "}") { depth -= 1 }
                    // A requirement of a protocol has no body, and the protocol ends before one begins.
                    if depth < 0 { break search }
                    if hasBody, depth == 0 {
                        if offset + 1 > limit { found.append((start + 1, offset + 1)) }
                        break search
                    }
                }
                if !hasBody, offset > 0, Self.beginsFunction(body) { break search }
            }
        }
        return found
    }

    private static func beginsFunction(_ line: Substring) -> Bool {
        let words = line.split { !($0.isLetter || $0.isNumber || $0 == "_" || $0 == "`") }
        guard let first = words.first else { return false }
        if words.contains("func") { return true }
        let modifiers: Set<Substring> = [
            "public", "internal", "private", "fileprivate", "package", "convenience", "override", "required",
            "static", "nonisolated", "borrowing", "consuming", "mutating",
        ]
        let name = words.first { !modifiers.contains($0) } ?? first
        return ["init", "deinit", "subscript"].contains(name)
    }
}

/// The scanner behind `SourceText`: nested comments, raw and multi-line strings, interpolation.
private struct Blanker {
    let source: [UInt8]
    var code: [UInt8] = []
    private var place = 0

    init(source: [UInt8]) { self.source = source }

    mutating func run() { scanCode(untilParenthesis: false) }

    private func sees(_ text: StaticString) -> Bool {
        guard place + text.utf8CodeUnitCount <= source.count else { return false }
        for offset in 0..<text.utf8CodeUnitCount where source[place + offset] != text.utf8Start[offset] {
            return false
        }
        return true
    }

    private mutating func keep(_ count: Int = 1) {
        for _ in 0..<count where place < source.count {
            code.append(source[place])
            place += 1
        }
    }

    private mutating func blank(_ count: Int = 1) {
        for _ in 0..<count where place < source.count {
            code.append(source[place] == UInt8(ascii: "\n") ? source[place] : UInt8(ascii: " "))
            place += 1
        }
    }

    private mutating func scanCode(untilParenthesis: Bool) {
        var depth = 0
        while place < source.count {
            if sees("//") {
                while place < source.count, source[place] != UInt8(ascii: "\n") { blank() }
            } else if sees("/*") {
                scanBlockComment()
            } else if sees("\"") || (sees("#") && isRawString) {
                scanString()
            } else {
                if sees("(") { depth += 1 }
                if sees(")") {
                    if untilParenthesis, depth == 0 { return }
                    depth -= 1
                }
                keep()
            }
        }
    }

    private mutating func scanBlockComment() {
        var depth = 0
        while place < source.count {
            if sees("/*") {
                depth += 1
                blank(2)
            } else if sees("*/") {
                depth -= 1
                blank(2)
                if depth == 0 { return }
            } else {
                blank()
            }
        }
    }

    private var isRawString: Bool {
        var ahead = place
        while ahead < source.count, source[ahead] == UInt8(ascii: "#") { ahead += 1 }
        return ahead < source.count && source[ahead] == UInt8(ascii: "\"")
    }

    private mutating func scanString() {
        var hashes = 0
        while sees("#") {
            hashes += 1
            blank()
        }
        let quotes = sees("\"\"\"") ? 3 : 1
        blank(quotes)
        let hashMarks = [UInt8](repeating: UInt8(ascii: "#"), count: hashes)
        let ending = [UInt8](repeating: UInt8(ascii: "\""), count: quotes) + hashMarks
        let escape = [UInt8(ascii: "\\")] + hashMarks
        while place < source.count {
            let isPlain = source[place] != ending[0] && source[place] != escape[0]
            if isPlain, source[place] != UInt8(ascii: "\n") {
                blank()
                continue
            }
            let rest = source[place...]
            if rest.starts(with: ending) {
                blank(ending.count)
                return
            }
            guard rest.starts(with: escape) else {
                // A string of one line that does not end is a mistake of this scanner: stop at the line.
                if quotes == 1, source[place] == UInt8(ascii: "\n") { return }
                blank()
                continue
            }
            blank(escape.count)
            if sees("(") {
                blank()
                scanCode(untilParenthesis: true)
            }
            blank()
        }
    }
}

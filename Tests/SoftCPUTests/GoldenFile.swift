import Foundation

/// A file of blocks: what a guest's code is, as bytes, and what host code it becomes. The guest's bytes and
/// the settings are written by hand, the rest by `make golden`:
///
/// ```
/// == what it shows
/// at: FF8 · options: exactFlags
///     48 01 D8                 add rax, rbx
///   + 0F 92 C0                 setb al            (lies behind the block and is not translated)
/// ----
///     add r14, rbx
/// ```
struct GoldenFile {
    struct Block {
        var title: String
        /// Of the first instruction in its page.
        var pageOffset = 0x100
        var options: Set<String> = []
        /// The instructions' bytes.
        var code: [[UInt8]] = []
        /// The same for what follows the block.
        var behind: [[UInt8]] = []
    }

    private(set) var introduction: [String] = []
    private(set) var blocks: [Block] = []

    struct Malformed: Error { let line: String }

    init(_ text: String) throws(Malformed) {
        var isHostCode = false
        for line in text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init) {
            if line.hasPrefix("== ") {
                blocks.append(Block(title: String(line.dropFirst(3))))
                isHostCode = false
            } else if blocks.isEmpty {
                introduction.append(line)
            } else if line == "----" {
                isHostCode = true
            } else if !isHostCode, !line.isEmpty {
                try read(line, &blocks[blocks.count - 1])
            }
        }
    }

    private func read(_ line: String, _ block: inout Block) throws(Malformed) {
        guard line.hasPrefix("  ") else {
            for setting in line.components(separatedBy: " · ") {
                let parts = setting.components(separatedBy: ": ")
                if parts.count == 2, parts[0] == "at", let offset = Int(parts[1], radix: 16) {
                    block.pageOffset = offset
                } else if parts.count == 2, parts[0] == "options" {
                    block.options = Set(parts[1].split(separator: " ").map(String.init))
                } else {
                    throw Malformed(line: line)
                }
            }
            return
        }
        let columns = line.dropFirst(4).components(separatedBy: "  ")
        let bytes = columns[0].split(separator: " ").map { UInt8($0, radix: 16) }
        guard !bytes.isEmpty, !bytes.contains(nil) else { throw Malformed(line: line) }
        if line.hasPrefix("  + ") {
            block.behind.append(bytes.compactMap { $0 })
        } else {
            block.code.append(bytes.compactMap { $0 })
        }
    }

    /// The whole file, with host code from `host`.
    func text(
        _ formatter: ReferenceFormatter, guest: ReferenceFormatter? = nil, host: (Block) throws -> [String]
    ) throws -> String {
        var result = introduction
        for block in blocks {
            result.append("== " + block.title)
            var settings: [String] = []
            if block.pageOffset != 0x100 {
                settings.append("at: " + String(block.pageOffset, radix: 16, uppercase: true))
            }
            if !block.options.isEmpty {
                settings.append("options: " + block.options.sorted().joined(separator: " "))
            }
            if !settings.isEmpty { result.append(settings.joined(separator: " · ")) }
            var offset = block.pageOffset
            for (number, bytes) in (block.code + block.behind).enumerated() {
                let mark = number < block.code.count ? "    " : "  + "
                result.append(mark + guestLine(bytes, at: offset, guest ?? formatter))
                offset += bytes.count
            }
            result += ["----"] + (try host(block)) + [""]
        }
        return result.joined(separator: "\n")
    }

    private func guestLine(_ bytes: [UInt8], at offset: Int, _ formatter: ReferenceFormatter) -> String {
        let digits = bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16, uppercase: true) }
            .joined(separator: " ")
        var text = "(undefined)"
        if let (found, length) = formatter.text(bytes[...], at: UInt64(offset)) {
            text = length == bytes.count ? found : "(\(length) bytes) \(found)"
        }
        text = text.replacing(/0x([0-9A-F]+)/) { match in
            let value = Int64(bitPattern: UInt64(match.output.1, radix: 16) ?? 0)
            return HostCodeListing.hexadecimal(Int(value))
        }
        return digits + String(repeating: " ", count: max(2, 32 - digits.count)) + text
    }
}

/// What changed between two texts, as `diff -u` shows it.
enum TextDifference {
    /// nil when they are the same.
    static func between(_ old: String, _ new: String, named name: String, context: Int = 3) -> String? {
        guard old != new else { return nil }
        let before = old.components(separatedBy: "\n"), after = new.components(separatedBy: "\n")
        var removed = Set<Int>(), inserted = Set<Int>()
        for change in after.difference(from: before) {
            switch change {
            case .remove(let offset, _, _): removed.insert(offset)
            case .insert(let offset, _, _): inserted.insert(offset)
            }
        }
        // Every line of both, in order, and whether it is only in one of them.
        var script: [(mark: Character, line: String)] = []
        var left = 0, right = 0
        while left < before.count || right < after.count {
            if removed.contains(left) {
                script.append(("-", before[left]))
                left += 1
            } else if inserted.contains(right) {
                script.append(("+", after[right]))
                right += 1
            } else {
                script.append((" ", before[left]))
                left += 1
                right += 1
            }
        }
        var result = ["--- \(name), as it was", "+++ \(name), as it is now"]
        var last = -1
        for (number, entry) in script.enumerated() {
            let near = script[max(0, number - context)...min(script.count - 1, number + context)]
            guard near.contains(where: { $0.mark != " " }) else { continue }
            if number != last + 1 || number == 0 { result.append("@@ line \(number + 1) @@") }
            result.append("\(entry.mark)\(entry.line)")
            last = number
        }
        return result.joined(separator: "\n")
    }
}

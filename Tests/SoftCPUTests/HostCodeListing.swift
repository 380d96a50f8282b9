import X86Architecture

@testable import SoftCPU

/// The host code of one translated block as text that is the same in every run: addresses of the gates, of
/// fields of the vCPU's state and of the interpreter's ops have names, places in the block have labels.
struct HostCodeListing {
    private struct Line {
        var address: UInt
        var length: Int
        var text: String
        /// Where a branch leads.
        var target: UInt?
        /// The branch that a word names.
        var site: UInt?
    }

    private let formatter: ReferenceFormatter
    private let bytes: [UInt8]
    private let start: UInt
    /// Of the gates, by address.
    private let gates: [UInt: String]
    private let ops: [UInt: String]
    private var lines: [Line] = []

    /// - Parameter code: executable addresses of the block from its entry to the end of its stubs.
    init(_ formatter: ReferenceFormatter, code: Range<UInt>, gates: GateCode, block: BlockView) {
        self.formatter = formatter
        start = code.lowerBound
        bytes = code.map { UnsafePointer<UInt8>(bitPattern: $0)!.pointee }
        self.gates = Self.names(gates)
        var ops: [UInt: String] = [:]
        for number in 0..<Int(block.b.instructionCount) {
            ops[block.b.ops + UInt(number * MemoryLayout<MicroOp>.stride)] = "op\(number)"
        }
        self.ops = ops
        read()
    }

    private static func names(_ gates: GateCode) -> [UInt: String] {
        var names: [UInt: String] = [:]
        for child in Mirror(reflecting: gates).children {
            guard let label = child.label else { continue }
            if let address = child.value as? UInt { names[address] = label }
            for (number, address) in (child.value as? [UInt] ?? []).enumerated() {
                names[address] = "\(label)[\(number)]"
            }
        }
        for frame in ReturnFrame.allCases { names[gates.returnMiss(frame)] = "returnMiss.\(frame)" }
        for miss in ProbeMiss.allCases {
            for write in [false, true] {
                let access = write ? "w" : "r"
                names[gates.wideFill(miss, write: write)] = "wideFill.\(miss).\(access)"
                for size in 0..<32 {
                    names[gates.fill(miss, size: size, write: write)] = "fill.\(miss).\(access)\(size)"
                }
            }
        }
        return names
    }

    // MARK: Reading

    private func word(_ offset: Int) -> Int32 {
        guard offset + 4 <= bytes.count else { return 0 }
        return Int32(
            bitPattern: (0..<4).reduce(0) { $0 | UInt32(bytes[offset + $1]) << UInt32($1 * 8) })
    }

    private mutating func read() {
        var offset = 0
        var wordsBehindJump = 0
        while offset < bytes.count {
            let address = start + UInt(offset)
            guard let (text, length) = formatter.text(bytes[offset...], at: UInt64(address)) else {
                lines.append(Line(address: address, length: 1, text: "(byte \(bytes[offset]))"))
                offset += 1
                continue
            }
            var line = Line(address: address, length: length, text: text)
            line.target = Self.target(text)
            lines.append(line)
            offset += length
            var words = 0
            if text.hasPrefix("call"), let gate = line.target.flatMap({ gates[$0] }) {
                switch gate {
                case "exitGoOn", "exitHere", "exitInterpret", "exitBranch", "exitStale": words = 1
                case _ where gate.hasPrefix("returnMiss."): words = 1
                case "exitLink": words = 2
                case "exitFar": words = 3
                case _ where gate.hasPrefix("fill."): readMiss(&offset, isWide: false)
                case _ where gate.hasPrefix("wideFill."): readMiss(&offset, isWide: true)
                case "ensure": wordsBehindJump = 1
                default: break
                }
            } else if text.hasPrefix("jmp") {
                (words, wordsBehindJump) = (wordsBehindJump, 0)
            }
            readWords(words, &offset)
        }
    }

    /// Half a word of a stub.
    private mutating func readHalf(_ offset: inout Int) -> Line {
        let address = start + UInt(offset)
        let value = Int(bytes[offset]) | Int(bytes[offset + 1]) << 8
        offset += 2
        return Line(address: address, length: 2, text: ".size 0x\(String(value, radix: 16))")
    }

    /// What a probe's stub says behind its call: how far back it goes on, the place, and of wide ones the
    /// site and the size.
    private mutating func readMiss(_ offset: inout Int, isWide: Bool) {
        var line = readHalf(&offset)
        line.text = ".back "
        line.target = line.address - UInt(bytes[offset - 2]) - UInt(bytes[offset - 1]) << 8
        lines.append(line)
        readWords(isWide ? 2 : 1, &offset)
        if isWide { lines.append(readHalf(&offset)) }
    }

    /// What an exit's words say: an offset in the page below the number of its place, a branch, and the
    /// lower half of the address in another page.
    private mutating func readWords(_ count: Int, _ offset: inout Int) {
        for number in 0..<count {
            let address = start + UInt(offset), value = word(offset)
            let offsetInPage = Int(value & (1 << Int32(CodePlace.offsetBits) - 1))
            var line = Line(address: address, length: 4, text: ".offset \(Self.hexadecimal(offsetInPage))")
            if number == 1 {
                line.text = ".site "
                line.site = address &+ UInt(bitPattern: Int(value))
            } else if number == 2 {
                line.text = ".target 0x\(String(UInt32(truncatingIfNeeded: value), radix: 16))"
            }
            lines.append(line)
            offset += 4
        }
    }

    /// Where a branch to an address leads.
    private static func target(_ text: String) -> UInt? {
        let parts = text.split(separator: " ")
        guard parts.count == 2, parts[0] == "call" || parts[0].hasPrefix("j"), parts[1].hasPrefix("0x") else {
            return nil
        }
        return UInt(parts[1].dropFirst(2), radix: 16)
    }

    // MARK: Writing

    /// One line for each instruction, label and word.
    var text: [String] {
        var labels: [UInt: String] = [:]
        let places = Set(lines.map(\.address))
        let used = lines.compactMap(\.target) + lines.compactMap { $0.site.flatMap(owner) }
        for address in Set(used).sorted() where places.contains(address) {
            labels[address] = "L\(labels.count + 1)"
        }
        var result: [String] = []
        for line in lines {
            if let label = labels[line.address] { result.append("\(label):") }
            if let target = line.target {
                let name = labels[target] ?? gates[target] ?? "(outside)"
                result.append("    \(line.text.prefix { $0 != " " }) \(name)")
            } else if let site = line.site {
                result.append("    .site \(owner(of: site).flatMap { labels[$0] } ?? "(outside)")")
            } else {
                result.append("    " + named(line.text))
            }
        }
        return result
    }

    /// The instruction that holds the bytes at `site`.
    private func owner(of site: UInt) -> UInt? {
        lines.first { $0.address < site && site < $0.address + UInt($0.length) }?.address
    }

    /// Names for the numbers that differ between builds or runs, and short forms of the others.
    private func named(_ text: String) -> String {
        text.replacing(/\[r9(?:([+-])0x([0-9A-F]+))?\]/) { match in
            let distance = Int32(match.output.2 ?? "0", radix: 16) ?? 0
            let place = match.output.1 == "-" ? -distance : distance
            return "[window: \(Self.fields[place] ?? Self.cachePlace(place))]"
        }.replacing(/0x([0-9A-F]+)/) { match in
            let value = UInt64(match.output.1, radix: 16) ?? 0
            return ops[UInt(value)] ?? Self.hexadecimal(Int(Int64(bitPattern: value)))
        }
    }

    static func hexadecimal(_ value: Int) -> String {
        (value < 0 ? "-" : "") + "0x" + String(value.magnitude, radix: 16)
    }

    /// An entry at a known place of the window: of the TLB, or of the targets of indirect branches.
    private static func cachePlace(_ place: Int32) -> String {
        guard place >= 0 else { return "unknown" }
        let targets = place - BranchTargets.offset
        return targets < 0
            ? "TLB+" + hexadecimal(Int(place)) : "targets+" + hexadecimal(Int(targets))
    }

    /// Fields of the state by their displacement from the window.
    private static let fields: [Int32: String] = {
        let layout = StateLayout.shared
        var names: [Int32: String] = [:]
        for child in Mirror(reflecting: layout).children {
            if let label = child.label, let place = child.value as? Int32 { names[place] = label }
        }
        let registers = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
            "r14", "r15",
        ]
        for (number, name) in registers.enumerated() {
            names[layout.gpr + Int32(number * 8)] = "guest " + name
        }
        for (number, name) in ["es", "cs", "ss", "ds", "fs", "gs"].enumerated() {
            names[layout.effectiveBase + Int32(number * 8)] = "base of " + name
            if case .state(let place) = layout.selector(UInt8(number)) {
                names[place] = "selector of " + name
            }
            names[layout.readLimits + Int32(number * 8)] = "last to read in " + name
            names[layout.writeLimits + Int32(number * 8)] = "last to write in " + name
        }
        return names
    }()
}

import Foundation

/// The parsed Instructions.table.
struct InstructionTable {
    /// What one line says, packed the way `InstructionRow` in SoftCPU unpacks it.
    struct Row {
        var mnemonic = ""
        var feature = ""
        /// 0 one-byte, 1 0F, 2 0F38, 3 0F3A; plus 4 under VEX.
        var space = 0
        var opcode = 0
        var coversEightOpcodes = false
        var hasModRM = false
        var match: UInt64 = 0
        var operands: UInt64 = 0
        var flags: UInt64 = 0
        var attributes: UInt64 = 0
    }
    private(set) var rows: [Row] = []
    private(set) var mnemonics: [String] = []
    private(set) var features: [String] = []

    struct Problem: Error, CustomStringConvertible {
        let line: Int, reason: String
        var description: String { "Instructions.table:\(line): \(reason)" }
    }

    /// Attributes that the interpreter asks for, in bit order. Those that only select a row are `Selector`s.
    static let attributeNames = [
        "lock", "cpl0", "cpl0ud", "pm", "umip", "iopl", "io", "stack", "string", "repz", "branch",
        "conditional", "far",
        "end", "shadow", "serial", "segload", "keepsflags", "bitstring", "x87", "mmx", "sse", "avx",
        "x87wait",
        "nowait", "fxstate", "xstate", "align", "align16", "align64", "mxcsr", "i64", "o64", "d64",
    ]

    init(parsing text: String) throws {
        for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            guard !line.isEmpty, !line.hasPrefix("#") else { continue }
            do {
                rows.append(try Row(line: String(line)))
            } catch let reason as RowProblem {
                throw Problem(line: number + 1, reason: reason.text)
            }
        }
        mnemonics = Set(rows.map(\.mnemonic)).sorted()
        features = ["-"] + Set(rows.map(\.feature)).subtracting(["-"]).sorted()
        for index in rows.indices {
            guard let mnemonic = mnemonics.firstIndex(of: rows[index].mnemonic),
                let feature = features.firstIndex(of: rows[index].feature)
            else { continue }
            rows[index].match |= UInt64(mnemonic) << 48
            rows[index].flags |= UInt64(feature) << 48
        }
    }
}

struct RowProblem: Error { let text: String }

extension InstructionTable.Row {
    /// Bit places of `match`: which situations the row accepts, one bit each.
    enum Place {
        static let prefix = 0, mod = 4, reg = 6, rm = 14, mode = 22, wide = 24, vectorLength = 26, size = 28
        static let extendedB = 31
        static let operandCount = 36, default64 = 39, neverMemory = 40, mandatory = 41, noVVVV = 42
    }

    init(line: String) throws {
        let columns = line.components(separatedBy: "  ").map { $0.trimmingCharacters(in: .whitespaces) }
            .filter { !$0.isEmpty }
        guard columns.count == 11 else { throw RowProblem(text: "\(columns.count) columns, not 11") }
        mnemonic = columns[3]
        feature = columns[9]
        allow(0xF, at: Place.prefix)
        allow(3, at: Place.mode)
        allow(3, at: Place.wide)
        allow(3, at: Place.vectorLength)
        allow(7, at: Place.size)
        allow(3, at: Place.extendedB)
        try parse(prefix: columns[0])
        try parse(opcode: columns[1])
        try parse(modRM: columns[2])
        try parse(operands: columns[4], access: columns[5])
        flags =
            try Self.flagBits(columns[6]) | Self.flagBits(columns[7]) << 16 | Self.flagBits(columns[8]) << 32
        flags |= UInt64(opcode) << 56
        try parse(attributes: columns[10])
        attributes |= UInt64(space) << 56 | (coversEightOpcodes ? 1 << 60 : 0) | (hasModRM ? 1 << 61 : 0)
    }

    private mutating func allow(_ bits: UInt64, at place: Int) { match |= bits << UInt64(place) }

    private mutating func only(_ bits: UInt64, of width: UInt64, at place: Int) {
        match &= ~(((1 << width) - 1) << UInt64(place)) | bits << UInt64(place)
    }

    private mutating func parse(prefix: String) throws {
        let accepted: [String: UInt64] = [
            "-": 0b1111, "NP": 0b0001, "NFx": 0b0011, "66": 2, "F3": 4, "F2": 8,
        ]
        guard let bits = accepted[prefix] else { throw RowProblem(text: "prefix \(prefix)") }
        only(bits, of: 4, at: Place.prefix)
        if ["66", "F3", "F2"].contains(prefix) { allow(1, at: Place.mandatory) }
    }

    private mutating func parse(opcode text: String) throws {
        var words = text.split(separator: " ").map(String.init)
        guard var last = words.popLast() else { throw RowProblem(text: "no opcode") }
        if last.hasSuffix("+r") {
            coversEightOpcodes = true
            last = String(last.dropLast(2))
        }
        guard let byte = Int(last, radix: 16) else { throw RowProblem(text: "opcode \(last)") }
        opcode = byte
        guard let map = words.first else { return }
        let maps = ["0F": 1, "0F38": 2, "0F3A": 3]
        if let plain = maps[map] {
            space = plain
            return
        }
        let fields = map.split(separator: ".").map(String.init)
        let prefixes: [String: UInt64] = ["NP": 1, "66": 2, "F3": 4, "F2": 8]
        let lengths: [String: UInt64] = ["128": 1, "256": 2, "LIG": 3],
            widths: [String: UInt64] = ["W0": 1, "W1": 2, "WIG": 3]
        guard fields.count == 5, fields[0] == "VEX", let length = lengths[fields[1]],
            let prefix = prefixes[fields[2]], let number = maps[fields[3]], let wide = widths[fields[4]]
        else { throw RowProblem(text: "map \(map)") }
        space = number + 4
        only(length, of: 2, at: Place.vectorLength)
        only(prefix, of: 4, at: Place.prefix)
        only(wide, of: 2, at: Place.wide)
        if prefix != 1 { allow(1, at: Place.mandatory) }
    }

    private mutating func parse(modRM text: String) throws {
        allow(3, at: Place.mod)
        allow(0xFF, at: Place.reg)
        allow(0xFF, at: Place.rm)
        hasModRM = text != "-"
        if text == "-" { return }
        if text.hasPrefix("="), let byte = UInt8(text.dropFirst(), radix: 16), byte >= 0xC0 {
            only(2, of: 2, at: Place.mod)
            only(1 << UInt64(byte >> 3 & 7), of: 8, at: Place.reg)
            only(1 << UInt64(byte & 7), of: 8, at: Place.rm)
            return
        }
        let parts = text.split(separator: ".").map(String.init)
        guard text.hasPrefix("/"), parts.count <= 2 else { throw RowProblem(text: "modrm \(text)") }
        switch parts.count == 2 ? parts[1] : "" {
        case "": break
        case "mem": only(1, of: 2, at: Place.mod)
        case "reg": only(2, of: 2, at: Place.mod)
        case "any": allow(1, at: Place.neverMemory)
        default: throw RowProblem(text: "modrm \(text)")
        }
        if parts[0] == "/r" { return }
        var accepted: UInt64 = 0
        for range in parts[0].dropFirst().split(separator: ",") {
            let ends = range.split(separator: "-").compactMap { Int($0) }
            guard let first = ends.first, let last = ends.last, 0...7 ~= first, first...7 ~= last
            else { throw RowProblem(text: "modrm \(text)") }
            for digit in first...last { accepted |= 1 << UInt64(digit) }
        }
        only(accepted, of: 8, at: Place.reg)
    }

    private mutating func parse(operands text: String, access: String) throws {
        let names = text == "-" ? [] : text.components(separatedBy: ", ")
        let letters = access == "-" ? [] : access.split(separator: ",").map(String.init)
        guard names.count == letters.count, names.count <= 4 else {
            throw RowProblem(text: "\(names.count) operands, \(letters.count) accesses")
        }
        let accesses: [String: UInt64] = ["n": 0, "r": 1, "w": 2, "rw": 3]
        var usesVVVV = false
        for (position, (name, letter)) in zip(names, letters).enumerated() {
            guard let (bits, source) = OperandNotation.pack(name), let access = accesses[letter] else {
                throw RowProblem(text: "operand \(name) \(letter)")
            }
            operands |= bits << UInt64(14 * position) | access << UInt64(56 + 2 * position)
            usesVVVV = usesVVVV || source.hasPrefix("vvvv")
        }
        allow(UInt64(names.count), at: Place.operandCount)
        if space >= 4, !usesVVVV { allow(1, at: Place.noVVVV) }
    }

    private static func flagBits(_ letters: String) throws -> UInt64 {
        let places: [Character: UInt64] = [
            "c": 1 << 0, "p": 1 << 2, "a": 1 << 4, "z": 1 << 6, "s": 1 << 7, "t": 1 << 8, "i": 1 << 9,
            "d": 1 << 10, "o": 1 << 11, "l": 3 << 12, "n": 1 << 14,
        ]
        if letters == "-" { return 0 }
        var bits: UInt64 = 0
        for letter in letters {
            guard let bit = places[letter] else { throw RowProblem(text: "flags \(letters)") }
            bits |= bit
        }
        return bits
    }

    private mutating func parse(attributes text: String) throws {
        for name in text.split(separator: " ").map(String.init) where name != "-" {
            switch name {
            case "i64": only(1, of: 2, at: Place.mode)
            case "o64": only(2, of: 2, at: Place.mode)
            case "d64": allow(1, at: Place.default64)
            case "w0": only(1, of: 2, at: Place.wide)
            case "w1": only(2, of: 2, at: Place.wide)
            case "b0": only(1, of: 2, at: Place.extendedB)
            case "os16": only(1, of: 3, at: Place.size)
            case "os32": only(2, of: 3, at: Place.size)
            case "os64": only(4, of: 3, at: Place.size)
            default:
                guard InstructionTable.attributeNames.contains(name) else {
                    throw RowProblem(text: "attribute \(name)")
                }
            }
            if let bit = InstructionTable.attributeNames.firstIndex(of: name) {
                attributes |= 1 << UInt64(bit)
            }
        }
    }
}

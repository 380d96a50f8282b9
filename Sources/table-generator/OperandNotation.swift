/// The operand notation of the table (see its head) as numbers. The order of the names is the numbering, and
/// the names become the cases of `OperandSource` and `OperandSize` in the generated file.
enum OperandNotation {
    static let sources = [
        Source("none", .fixed, "none"), Source("rmGeneral", .rmGeneral, "gpr"),
        Source("regGeneral", .regExtended, "gpr"), Source("opcodeGeneral", .opcode, "gpr"),
        Source("vvvvGeneral", .vvvv, "gpr"), Source("fixedGeneral", .fixed, "gpr"),
        Source("immediate", .fixed, "immediate"), Source("signedImmediate", .fixed, "immediate"),
        Source("one", .fixed, "one"), Source("relative", .fixed, "relative"),
        Source("moffs", .fixed, "memory", isRare: true),
        Source("farPointer", .fixed, "farPointer", isRare: true), Source("regSegment", .reg, "segment"),
        Source("fixedSegment", .fixed, "segment"),
        Source("regControl", .regExtended, "control", isRare: true),
        Source("regDebug", .regExtended, "debug", isRare: true), Source("regVector", .regExtended, "xmm"),
        Source("rmVector", .rmVector, "xmm"), Source("vvvvVector", .vvvv, "xmm"),
        Source("lastByteVector", .fixed, "xmm", isRare: true), Source("fixedVector", .fixed, "xmm"),
        Source("regMMX", .reg, "mmx"), Source("rmMMX", .rm, "mmx"),
        Source("stringSource", .fixed, "stringSource"),
        Source("stringDestination", .fixed, "stringDestination"),
        Source("memoryAtRDI", .fixed, "memory", isRare: true), Source("tableLookup", .fixed, "tableLookup"),
        Source("memoryIndexXMM", .fixed, "memoryVectorIndex", isRare: true),
        Source("memoryIndexYMM", .fixed, "memoryVectorIndex", isRare: true),
        Source("fixedST", .fixed, "st"), Source("rmST", .rm, "st"),
    ]

    /// Where the number of an operand's register comes from. The first three of rm may turn out to be memory.
    enum Register: UInt64 {
        case fixed, rmGeneral, rmVector, rm, regExtended, reg, opcode, vvvv
    }

    /// Where an operand comes from.
    struct Source {
        let name: String, register: Register, kind: String
        /// It takes more than a kind and a register: `RareOperands` in the decoder does it.
        let isRare: Bool
        /// It is a sign-extended number, whatever its size.
        var isSigned: Bool { name == "signedImmediate" || name == "relative" }

        init(_ name: String, _ register: Register, _ kind: String, isRare: Bool = false) {
            (self.name, self.register, self.kind, self.isRare) = (name, register, kind, isRare)
        }
    }

    /// `Operand.Kind` in its order.
    static let kinds = [
        "none", "gpr", "highByte", "memory", "memoryVectorIndex", "stringSource", "stringDestination",
        "tableLookup", "immediate", "immediate2", "one", "relative", "farPointer", "xmm", "ymm", "mmx", "st",
        "segment", "control", "debug",
    ]
    static let sizes = [
        "unsized", "b", "w", "d", "q", "t", "dq", "qq", "x", "half", "quarter", "eighth", "v", "z", "y",
        "native",
        "far", "pair", "descriptorTable",
    ]

    /// Operands whose name says all: source, size, register.
    private static let fixed: [String: (String, String, Int)] = [
        "AL": ("fixedGeneral", "b", 0), "CL": ("fixedGeneral", "b", 1), "AX": ("fixedGeneral", "w", 0),
        "DX": ("fixedGeneral", "w", 2), "rAX": ("fixedGeneral", "v", 0), "eAX": ("fixedGeneral", "z", 0),
        "1": ("one", "b", 0), "ES": ("fixedSegment", "w", 0), "CS": ("fixedSegment", "w", 1),
        "SS": ("fixedSegment", "w", 2), "DS": ("fixedSegment", "w", 3), "FS": ("fixedSegment", "w", 4),
        "GS": ("fixedSegment", "w", 5), "ST0": ("fixedST", "t", 0), "STi": ("rmST", "t", 0),
        "XMM0": ("fixedVector", "dq", 0),
    ]
    /// Prefixes of names; longer ones first.
    private static let letters: [(String, String)] = [
        ("rDI", "memoryAtRDI"), ("TA", "tableLookup"), ("sI", "signedImmediate"), ("KX", "memoryIndexXMM"),
        ("KY", "memoryIndexYMM"), ("E", "rmGeneral"), ("R", "rmGeneral"), ("M", "rmGeneral"),
        ("G", "regGeneral"), ("Z", "opcodeGeneral"), ("B", "vvvvGeneral"), ("I", "immediate"),
        ("J", "relative"), ("O", "moffs"), ("A", "farPointer"), ("S", "regSegment"), ("C", "regControl"),
        ("D", "regDebug"), ("V", "regVector"), ("W", "rmVector"), ("U", "rmVector"), ("H", "vvvvVector"),
        ("L", "lastByteVector"), ("P", "regMMX"), ("Q", "rmMMX"), ("N", "rmMMX"), ("X", "stringSource"),
        ("Y", "stringDestination"),
    ]
    private static let sizeLetters: [String: String] = [
        "": "unsized", "b": "b", "w": "w", "d": "d", "ss": "d", "q": "q", "sd": "q", "t": "t", "dq": "dq",
        "qq": "qq", "x": "x", "h": "half", "f": "quarter", "e": "eighth", "v": "v", "z": "z", "y": "y",
        "n": "native", "p": "far", "a": "pair", "s": "descriptorTable",
    ]

    /// The 14 bits of one operand: source (5), size (5), fixed register (4); nil for an unknown name.
    static func pack(_ name: String) -> (bits: UInt64, source: String)? {
        if let (source, size, register) = fixed[name] {
            return bits(source, size, register)
        }
        for (prefix, source) in letters where name.hasPrefix(prefix) {
            if let size = sizeLetters[String(name.dropFirst(prefix.count))] { return bits(source, size, 0) }
        }
        return nil
    }

    private static func bits(_ source: String, _ size: String, _ register: Int) -> (UInt64, String)? {
        guard let sourceNumber = sources.firstIndex(where: { $0.name == source }),
            let sizeNumber = sizes.firstIndex(of: size)
        else { return nil }
        return (UInt64(sourceNumber | sizeNumber << 5 | register << 10), source)
    }
}

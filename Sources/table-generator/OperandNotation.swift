/// The operand notation of the table (see its head) as numbers. The order of the names is the numbering, and
/// the names become the cases of `OperandSource` and `OperandSize` in the generated file.
enum OperandNotation {
    static let sources = [
        "none", "rmGeneral", "regGeneral", "opcodeGeneral", "vvvvGeneral", "fixedGeneral", "immediate",
        "signedImmediate", "one", "relative", "moffs", "farPointer", "regSegment", "fixedSegment",
        "regControl",
        "regDebug", "regVector", "rmVector", "vvvvVector", "lastByteVector", "fixedVector", "regMMX", "rmMMX",
        "stringSource", "stringDestination", "memoryAtRDI", "tableLookup", "memoryIndexXMM", "memoryIndexYMM",
        "fixedST", "rmST",
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
        guard let sourceNumber = sources.firstIndex(of: source), let sizeNumber = sizes.firstIndex(of: size)
        else { return nil }
        return (UInt64(sourceNumber | sizeNumber << 5 | register << 10), source)
    }
}

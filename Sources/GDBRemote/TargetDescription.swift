/// The registers in the words of gdb's target descriptions (GDB manual, appendix G).
enum TargetDescription {
    static let document: [UInt8] = Array(text.utf8)

    private static var text: String {
        """
        <?xml version="1.0"?>
        <!DOCTYPE target SYSTEM "gdb-target.dtd">
        <target version="1.0">
        <architecture>i386:x86-64</architecture>

        """ + RegisterFeature.all.map(feature).joined() + "</target>\n"
    }

    private static func feature(_ feature: RegisterFeature) -> String {
        var lines = ["<feature name=\"\(feature.name)\">"]
        lines += types(of: feature)
        for row in feature.rows {
            lines.append("<reg name=\"\(row.name)\" bitsize=\"\(row.bits)\" type=\"\(row.type)\"/>")
        }
        return lines.joined(separator: "\n") + "\n</feature>\n"
    }

    private static func types(of feature: RegisterFeature) -> [String] {
        let used = Set(feature.rows.map(\.type))
        var lines: [String] = []
        if used.contains("vec128") { lines += vectors }
        if used.contains("i386_eflags") { lines += flags("i386_eflags", eflags) }
        if used.contains("i386_mxcsr") { lines += flags("i386_mxcsr", mxcsr) }
        return lines
    }

    /// Names of single bits.
    private static func flags(_ name: String, _ bits: [(String, Int)]) -> [String] {
        ["<flags id=\"\(name)\" size=\"4\">"]
            + bits.map { "<field name=\"\($0.0)\" start=\"\($0.1)\" end=\"\($0.1)\"/>" } + ["</flags>"]
    }

    private static let eflags: [(String, Int)] = [
        ("CF", 0), ("", 1), ("PF", 2), ("AF", 4), ("ZF", 6), ("SF", 7), ("TF", 8), ("IF", 9), ("DF", 10),
        ("OF", 11), ("NT", 14), ("RF", 16), ("VM", 17), ("AC", 18), ("VIF", 19), ("VIP", 20), ("ID", 21),
    ]

    private static let mxcsr: [(String, Int)] = [
        ("IE", 0), ("DE", 1), ("ZE", 2), ("OE", 3), ("UE", 4), ("PE", 5), ("DAZ", 6), ("IM", 7), ("DM", 8),
        ("ZM", 9), ("OM", 10), ("UM", 11), ("PM", 12), ("FZ", 15),
    ]

    /// The ways to look at an XMM register.
    private static let vectors: [String] = {
        let views = [
            ("v4_float", "v4f", "ieee_single", 4), ("v2_double", "v2d", "ieee_double", 2),
            ("v16_int8", "v16i8", "int8", 16), ("v8_int16", "v8i16", "int16", 8),
            ("v4_int32", "v4i32", "int32", 4), ("v2_int64", "v2i64", "int64", 2),
        ]
        return views.map { "<vector id=\"\($0.1)\" type=\"\($0.2)\" count=\"\($0.3)\"/>" }
            + ["<union id=\"vec128\">"] + views.map { "<field name=\"\($0.0)\" type=\"\($0.1)\"/>" }
            + ["<field name=\"uint128\" type=\"uint128\"/>", "</union>"]
    }()
}

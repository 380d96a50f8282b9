internal import X86Architecture

/// One register as gdb knows it.
struct RegisterRow {
    enum Place: Equatable {
        case general(Int)
        case rip, rflags
        case selector(SegmentRegister)
        case base(SegmentRegister)
        case kernelGSBase
        case cr0, cr2, cr3, cr4, cr8, efer
        /// Bytes of the XSAVE image that belong to a component.
        case image(offset: Int, component: ExtendedComponent)
        /// The x87 tag word with two bits a register; the image has one.
        case tagWord
    }
    let name: String
    let bits: Int
    /// Of the target description.
    let type: String
    let place: Place
    var byteCount: Int { bits / 8 }
}

/// Components of the XSAVE image: the bit in XSTATE_BV (SDM vol. 1 §13.1).
enum ExtendedComponent: UInt8 { case x87 = 1, sse = 2, avx = 4 }

/// A feature of the target description: gdb knows the standard ones by their names (GDB manual, appendix
/// G.5.15, "i386 Features"), and what registers they must have in which order.
struct RegisterFeature {
    let name: String
    let rows: [RegisterRow]

    static let all = [core, segments, sse, avx, system]

    /// gdb's order of RAX to RDI, as the numbers of the encoding.
    private static let generalOrder: [(name: String, number: Int)] = [
        ("rax", 0), ("rbx", 3), ("rcx", 1), ("rdx", 2), ("rsi", 6), ("rdi", 7), ("rbp", 5), ("rsp", 4),
    ]

    private static let selectors: [(String, SegmentRegister)] = [
        ("cs", .cs), ("ss", .ss), ("ds", .ds), ("es", .es), ("fs", .fs), ("gs", .gs),
    ]

    /// x87 control fields: name, and offset in the FXSAVE image (SDM vol. 1 table 10-2).
    private static let x87Fields: [(String, Int)] = [
        ("fctrl", 0), ("fstat", 2), ("ftag", 4), ("fiseg", 12), ("fioff", 8), ("foseg", 20), ("fooff", 16),
        ("fop", 6),
    ]

    private static let core = RegisterFeature(
        name: "org.gnu.gdb.i386.core",
        rows: generalOrder.map {
            RegisterRow(
                name: $0.name, bits: 64, type: ["rbp", "rsp"].contains($0.name) ? "data_ptr" : "int64",
                place: .general($0.number))
        }
            + (8..<16).map { RegisterRow(name: "r\($0)", bits: 64, type: "int64", place: .general($0)) }
            + [
                RegisterRow(name: "rip", bits: 64, type: "code_ptr", place: .rip),
                RegisterRow(name: "eflags", bits: 32, type: "i386_eflags", place: .rflags),
            ]
            + selectors.map { RegisterRow(name: $0.0, bits: 32, type: "int32", place: .selector($0.1)) }
            + (0..<8).map {
                RegisterRow(
                    name: "st\($0)", bits: 80, type: "i387_ext",
                    place: .image(offset: 32 + 16 * $0, component: .x87))
            }
            + x87Fields.map { name, offset in
                RegisterRow(
                    name: name, bits: 32, type: "int",
                    place: name == "ftag" ? .tagWord : .image(offset: offset, component: .x87))
            })

    private static let segments = RegisterFeature(
        name: "org.gnu.gdb.i386.segments",
        rows: [
            RegisterRow(name: "fs_base", bits: 64, type: "int", place: .base(.fs)),
            RegisterRow(name: "gs_base", bits: 64, type: "int", place: .base(.gs)),
        ])

    private static let sse = RegisterFeature(
        name: "org.gnu.gdb.i386.sse",
        rows: (0..<16).map {
            RegisterRow(
                name: "xmm\($0)", bits: 128, type: "vec128",
                place: .image(offset: 160 + 16 * $0, component: .sse))
        } + [
            RegisterRow(
                name: "mxcsr", bits: 32, type: "i386_mxcsr", place: .image(offset: 24, component: .sse))
        ])

    /// The upper halves of YMM0 to YMM15.
    private static let avx = RegisterFeature(
        name: "org.gnu.gdb.i386.avx",
        rows: (0..<16).map {
            RegisterRow(
                name: "ymm\($0)h", bits: 128, type: "uint128",
                place: .image(offset: 576 + 16 * $0, component: .avx))
        })

    /// What gdb knows nothing about and just shows.
    private static let system = RegisterFeature(
        name: "org.ospite.x86.system",
        rows: [
            RegisterRow(name: "k_gs_base", bits: 64, type: "int64", place: .kernelGSBase),
            RegisterRow(name: "cr0", bits: 64, type: "int64", place: .cr0),
            RegisterRow(name: "cr2", bits: 64, type: "int64", place: .cr2),
            RegisterRow(name: "cr3", bits: 64, type: "int64", place: .cr3),
            RegisterRow(name: "cr4", bits: 64, type: "int64", place: .cr4),
            RegisterRow(name: "cr8", bits: 64, type: "int64", place: .cr8),
            RegisterRow(name: "efer", bits: 64, type: "int64", place: .efer),
        ])
}

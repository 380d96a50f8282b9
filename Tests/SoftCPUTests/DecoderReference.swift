import Glibc

@testable import SoftCPU

/// Zydis 4.0, an independent decoder, loaded at run time: the tests need no header of it and say so when it
/// is absent. Offsets are those of `ZydisDecodedInstruction` and `ZydisDecodedOperand` in that version.
final class ReferenceDecoder {
    private typealias Decode =
        @convention(c) (
            UnsafeRawPointer, UnsafeRawPointer, Int, UnsafeMutableRawPointer, UnsafeMutableRawPointer
        ) -> UInt32
    private let decodeFull: Decode
    private let mnemonicName: @convention(c) (UInt32) -> UnsafePointer<CChar>?
    private let extensionName: @convention(c) (UInt32) -> UnsafePointer<CChar>?
    private let decoder = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 8)
    private let instruction = UnsafeMutableRawPointer.allocate(byteCount: 1024, alignment: 8)
    private let operands = UnsafeMutableRawPointer.allocate(byteCount: 2048, alignment: 8)
    private var names: [UInt32: String] = [:]
    private var extensions: [UInt32: String] = [:]

    /// Nil when the library or its version 4.0 is not installed.
    init?(mode: CodeMode) {
        guard let library = dlopen("libZydis.so.4.0", RTLD_NOW),
            let version = dlsym(library, "ZydisGetVersion"), let start = dlsym(library, "ZydisDecoderInit"),
            let enable = dlsym(library, "ZydisDecoderEnableMode"),
            let decode = dlsym(library, "ZydisDecoderDecodeFull"),
            let mnemonic = dlsym(library, "ZydisMnemonicGetString"),
            let isa = dlsym(library, "ZydisISAExtGetString")
        else { return nil }
        typealias Name = @convention(c) (UInt32) -> UnsafePointer<CChar>?
        decodeFull = unsafeBitCast(decode, to: Decode.self)
        mnemonicName = unsafeBitCast(mnemonic, to: Name.self)
        extensionName = unsafeBitCast(isa, to: Name.self)
        let getVersion = unsafeBitCast(version, to: (@convention(c) () -> UInt64).self)
        guard getVersion() >> 32 == 0x0004_0000 else { return nil }
        let initialise = unsafeBitCast(
            start, to: (@convention(c) (UnsafeMutableRawPointer, UInt32, UInt32) -> UInt32).self)
        let setMode = unsafeBitCast(
            enable, to: (@convention(c) (UnsafeMutableRawPointer, UInt32, UInt8) -> UInt32).self)
        let (machine, stack): (UInt32, UInt32) =
            switch mode.defaultSize {
            case .bits64: (0, 2)
            case .bits32: (1, 1)
            case .bits16: (4, 0)
            }
        guard initialise(decoder, machine, stack) < 0x8000_0000 else { return nil }
        // Branches as on AMD; no MPX, CET hints, CLDEMOTE (they are no-operations for us).
        for (mode, on) in [(1, 1), (3, 0), (4, 0), (8, 0)] as [(UInt32, UInt8)] {
            guard setMode(decoder, mode, on) < 0x8000_0000 else { return nil }
        }
    }

    deinit {
        decoder.deallocate()
        instruction.deallocate()
        operands.deallocate()
    }

    struct Result {
        var length = 0
        var mnemonic = ""
        var isaExtension = ""
        /// 0 legacy, 1 3DNow!, 2 XOP, 3 VEX, 4 EVEX, 5 MVEX.
        var encoding: UInt32 = 0
        var operands: [Operand] = []
        /// The first so many operands are those that an assembler writes.
        var visibleCount = 0
        var isPrivileged = false
        var flagsTested: UInt32 = 0, flagsModified: UInt32 = 0, flagsUndefined: UInt32 = 0
    }
    struct Operand {
        enum Kind: UInt32 { case none = 0, register, memory, pointer, immediate }
        var kind = Kind.none
        var register: UInt32 = 0
        var bits = 0
        var isRead = false, isWritten = false
        /// 1 memory, 2 address only, 3 MIB, 4 VSIB.
        var memoryType: UInt32 = 0
        var segment: UInt32 = 0, base: UInt32 = 0, index: UInt32 = 0, scale: UInt8 = 0
        var displacement: Int64 = 0
        var immediate: UInt64 = 0
        var isRelative = false
        var pointerSegment: UInt16 = 0, pointerOffset: UInt32 = 0
    }
    enum Failure: UInt32, Error {
        case noMoreData = 0x8020_0000, tooLong = 0x8020_0002, illegal = 0x8020_0001
    }

    func decode(_ bytes: [UInt8]) throws(Failure) -> Result {
        let status = bytes.withUnsafeBytes { buffer in
            decodeFull(decoder, buffer.baseAddress!, buffer.count, instruction, operands)
        }
        if status >= 0x8000_0000 { throw Failure(rawValue: status) ?? .illegal }
        func word<T>(_ offset: Int, _: T.Type) -> T { instruction.load(fromByteOffset: offset, as: T.self) }
        var result = Result()
        result.length = Int(word(8, UInt8.self))
        result.encoding = word(12, UInt32.self)
        result.mnemonic = name(word(4, UInt32.self), &names, mnemonicName)
        result.isaExtension = name(word(100, UInt32.self), &extensions, extensionName)
        result.isPrivileged = word(32, UInt64.self) >> 8 & 1 != 0
        if let flags = word(40, UnsafeRawPointer?.self) {
            result.flagsTested = flags.load(as: UInt32.self)
            result.flagsModified =
                flags.load(fromByteOffset: 4, as: UInt32.self)
                | flags.load(fromByteOffset: 8, as: UInt32.self)
                | flags.load(fromByteOffset: 12, as: UInt32.self)
            result.flagsUndefined = flags.load(fromByteOffset: 16, as: UInt32.self)
        }
        result.visibleCount = Int(word(25, UInt8.self))
        for number in 0..<Int(word(24, UInt8.self)) {
            result.operands.append(operand(operands + 80 * number))
        }
        return result
    }

    private func name(
        _ number: UInt32, _ cache: inout [UInt32: String],
        _ lookUp: @convention(c) (UInt32) -> UnsafePointer<CChar>?
    ) -> String {
        if let known = cache[number] { return known }
        let text = lookUp(number).map { String(cString: $0) } ?? "?"
        cache[number] = text
        return text
    }

    private func operand(_ raw: UnsafeRawPointer) -> Operand {
        var result = Operand()
        let actions = raw.load(fromByteOffset: 8, as: UInt8.self)
        (result.isRead, result.isWritten) = (actions & 5 != 0, actions & 10 != 0)
        result.bits = Int(raw.load(fromByteOffset: 16, as: UInt16.self))
        result.kind = Operand.Kind(rawValue: raw.load(fromByteOffset: 32, as: UInt32.self)) ?? .none
        result.register = raw.load(fromByteOffset: 40, as: UInt32.self)
        result.memoryType = result.register
        result.segment = raw.load(fromByteOffset: 44, as: UInt32.self)
        result.base = raw.load(fromByteOffset: 48, as: UInt32.self)
        result.index = raw.load(fromByteOffset: 52, as: UInt32.self)
        result.scale = raw.load(fromByteOffset: 56, as: UInt8.self)
        result.displacement = raw.load(fromByteOffset: 72, as: Int64.self)
        result.immediate = raw.load(fromByteOffset: 48, as: UInt64.self)
        result.isRelative = raw.load(fromByteOffset: 41, as: UInt8.self) != 0
        result.pointerSegment = raw.load(fromByteOffset: 40, as: UInt16.self)
        result.pointerOffset = raw.load(fromByteOffset: 44, as: UInt32.self)
        return result
    }
}

/// A register number of the reference as (kind, number, bytes); nil for none.
func referenceRegister(_ id: UInt32) -> (kind: Operand.Kind, number: UInt8, size: UInt8)? {
    let number = { (first: UInt32) in UInt8(truncatingIfNeeded: id - first) }
    return switch id {
    case 1...4: (.gpr, number(1), 1)
    case 5...8: (.highByte, number(5), 1)
    case 9...20: (.gpr, number(9) + 4, 1)
    case 21...36: (.gpr, number(21), 2)
    case 37...52: (.gpr, number(37), 4)
    case 53...68: (.gpr, number(53), 8)
    case 69...76: (.st, number(69), 10)
    case 80...87: (.mmx, number(80), 8)
    case 88...119: (.xmm, number(88), 16)
    case 120...151: (.ymm, number(120), 32)
    case 195...197: (.none, Instruction.ripBase, UInt8([2, 4, 8][Int(id - 195)]))
    case 198...203: (.segment, number(198), 2)
    case 216...231: (.control, number(216), 8)
    case 232...247: (.debug, number(232), 8)
    default: nil
    }
}

import Glibc

/// Zydis 4.0 as a disassembler, loaded at run time as `ReferenceDecoder` loads it.
final class ReferenceFormatter {
    private typealias Decode =
        @convention(c) (
            UnsafeRawPointer, UnsafeRawPointer, Int, UnsafeMutableRawPointer, UnsafeMutableRawPointer
        ) -> UInt32
    private typealias Format =
        @convention(c) (
            UnsafeRawPointer, UnsafeRawPointer, UnsafeRawPointer, UInt8, UnsafeMutablePointer<CChar>, Int,
            UInt64, UnsafeRawPointer?
        ) -> UInt32
    private let decodeFull: Decode
    private let formatInstruction: Format
    /// Zydis' own structures have 20, 584, 328 and 10 times 80 bytes.
    private let decoder = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 16)
    private let formatter = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 16)
    private let instruction = UnsafeMutableRawPointer.allocate(byteCount: 1024, alignment: 16)
    private let operands = UnsafeMutableRawPointer.allocate(byteCount: 2048, alignment: 16)

    /// 64-bit or 32-bit code in Intel's notation; nil when the library or its version 4.0 is not installed.
    init?(bits: Int = 64) {
        guard let library = dlopen("libZydis.so.4.0", RTLD_NOW),
            let version = dlsym(library, "ZydisGetVersion"), let start = dlsym(library, "ZydisDecoderInit"),
            let decode = dlsym(library, "ZydisDecoderDecodeFull"),
            let begin = dlsym(library, "ZydisFormatterInit"),
            let format = dlsym(library, "ZydisFormatterFormatInstruction")
        else { return nil }
        decodeFull = unsafeBitCast(decode, to: Decode.self)
        formatInstruction = unsafeBitCast(format, to: Format.self)
        guard unsafeBitCast(version, to: (@convention(c) () -> UInt64).self)() >> 32 == 0x0004_0000 else {
            return nil
        }
        let initialise = unsafeBitCast(
            start, to: (@convention(c) (UnsafeMutableRawPointer, UInt32, UInt32) -> UInt32).self)
        let choose = unsafeBitCast(
            begin, to: (@convention(c) (UnsafeMutableRawPointer, UInt32) -> UInt32).self)
        // Long mode with a stack of 64 bits, or legacy mode with one of 32; Intel's notation.
        guard initialise(decoder, bits == 64 ? 0 : bits == 32 ? 3 : 5, UInt32(bits / 32)) < 0x8000_0000,
            choose(formatter, 1) < 0x8000_0000
        else { return nil }
    }

    deinit {
        for memory in [decoder, formatter, instruction, operands] { memory.deallocate() }
    }

    /// The first instruction of `bytes` as it reads at `address`; nil when it is none.
    func text(_ bytes: ArraySlice<UInt8>, at address: UInt64) -> (text: String, length: Int)? {
        let status = bytes.withUnsafeBytes { buffer in
            buffer.count == 0
                ? .max
                : decodeFull(decoder, buffer.baseAddress!, min(buffer.count, 15), instruction, operands)
        }
        guard status < 0x8000_0000 else { return nil }
        var text = [CChar](repeating: 0, count: 256)
        let visible = instruction.load(fromByteOffset: 25, as: UInt8.self)
        guard
            formatInstruction(formatter, instruction, operands, visible, &text, 256, address, nil)
                < 0x8000_0000
        else { return nil }
        let words = text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
        return (
            String(decoding: words, as: UTF8.self), Int(instruction.load(fromByteOffset: 8, as: UInt8.self))
        )
    }
}

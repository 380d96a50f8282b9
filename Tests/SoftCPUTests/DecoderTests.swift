import Foundation
import Testing

@testable import SoftCPU

/// Encodings whose meaning is easy to get wrong, and the shape of the table.
@Suite struct DecoderTests {
    private func decode(_ bytes: [UInt8], _ mode: CodeMode = .bits64) throws(DecodeFailure) -> Instruction {
        try Decoder().decode(InstructionBytes(bytes), mode: mode)
    }

    private func failure(_ bytes: [UInt8], _ mode: CodeMode = .bits64) -> DecodeFailure? {
        do throws(DecodeFailure) {
            _ = try decode(bytes, mode)
            return nil
        } catch {
            return error
        }
    }

    @Test func `90 is nop, 41 90 exchanges r8 and F3 90 pauses`() throws {
        #expect(try decode([0x90]).mnemonic == .nop)
        #expect(try decode([0x48, 0x90]).mnemonic == .nop)
        #expect(try decode([0xF3, 0x90]).mnemonic == .pause)
        let exchange = try decode([0x41, 0x90])
        #expect(exchange.mnemonic == .xchg)
        #expect(exchange.operand0.register == 8 && exchange.operand1.register == 0)
        #expect(try decode([0xF3, 0x41, 0x90]).mnemonic == .xchg)
    }

    @Test func `a REX that a legacy prefix follows is ignored`() throws {
        let move = try decode([0x48, 0x66, 0x89, 0xC8])
        #expect(move.operandSize == 2 && !move.prefixes.contains(.rex) && move.length == 4)
    }

    @Test func `REX turns AH into SPL`() throws {
        #expect(try decode([0x88, 0xE0]).operand1.kind == .highByte)
        let move = try decode([0x40, 0x88, 0xE0])
        #expect(move.operand1.kind == .gpr && move.operand1.register == 4)
    }

    @Test func `REX W wins over 66`() throws {
        #expect(try decode([0x66, 0x48, 0x01, 0xC8]).operandSize == 8)
    }

    @Test func `operand sizes follow the mode and 66`() throws {
        #expect(try decode([0x01, 0xC8], .bits16).operandSize == 2)
        #expect(try decode([0x66, 0x01, 0xC8], .bits16).operandSize == 4)
        #expect(try decode([0x01, 0xC8], .bits32).operandSize == 4)
        #expect(try decode([0x50]).operandSize == 8)
        #expect(try decode([0x66, 0x50]).operandSize == 2)
        #expect(try decode([0x50], .bits32).operandSize == 4)
    }

    @Test func `near branches obey 66 in 64-bit mode, as AMD's do`() throws {
        let near = try decode([0xE9, 1, 2, 3, 0x84])
        #expect(near.length == 5 && near.operandSize == 8 && near.immediate == 0xFFFF_FFFF_8403_0201)
        let narrow = try decode([0x66, 0xE9, 1, 2])
        #expect(narrow.length == 4 && narrow.operandSize == 2 && narrow.immediate == 0x0201)
    }

    @Test func `immediates extend as the row says`() throws {
        #expect(try decode([0x83, 0xC0, 0xFF]).immediate == UInt64.max)
        #expect(try decode([0x04, 0xFF]).immediate == 0xFF)
        #expect(try decode([0x48, 0x05, 0, 0, 0, 0x80]).immediate == 0xFFFF_FFFF_8000_0000)
        #expect(try decode([0xB8, 0, 0, 0, 0x80]).immediate == 0x8000_0000)
        #expect(try decode([0x48, 0xB8, 1, 2, 3, 4, 5, 6, 7, 0x88]).immediate == 0x8807_0605_0403_0201)
        #expect(try decode([0x6A, 0x80]).immediate == 0xFFFF_FFFF_FFFF_FF80)
        #expect(try decode([0xC2, 0xFE, 0xFF]).immediate == 0xFFFE)
        let enter = try decode([0xC8, 0x34, 0x12, 0x05])
        #expect(enter.immediate == 0x1234 && enter.immediate2 == 5 && enter.immediateSize == 3)
        let far = try decode([0xEA, 1, 2, 3, 4, 5, 6], .bits32)
        #expect(far.immediate == 0x0403_0201 && far.immediate2 == 0x0605)
    }

    @Test func `a direct address is as long as the address size and unsigned`() throws {
        let long = try decode([0xA1, 1, 2, 3, 4, 5, 6, 7, 0x88])
        #expect(long.displacement == Int64(bitPattern: 0x8807_0605_0403_0201) && long.length == 9)
        #expect(try decode([0x67, 0xA1, 1, 2, 3, 0x84]).displacement == 0x8403_0201)
        #expect(try decode([0xA1, 1, 0xFF], .bits16).displacement == 0xFF01)
    }

    @Test func `addresses`() throws {
        let relative = try decode([0x8B, 0x05, 0xF0, 0xFF, 0xFF, 0xFF])
        #expect(relative.base == Instruction.ripBase && relative.displacement == -16)
        #expect(relative.displacementOffset == 2 && relative.displacementSize == 4)
        let absolute = try decode([0x8B, 0x05, 0xF0, 0xFF, 0xFF, 0xFF], .bits32)
        #expect(absolute.base == Instruction.noRegister)
        let indexed = try decode([0x4B, 0x8B, 0x44, 0x65, 0x10])
        #expect(indexed.base == 13 && indexed.index == 12 && indexed.scaleShift == 1)
        #expect(indexed.segment == SegmentNumber.ds)
        let stack = try decode([0x8B, 0x04, 0x24])
        #expect(stack.base == 4 && stack.index == Instruction.noRegister && stack.segment == SegmentNumber.ss)
        let word = try decode([0x8B, 0x42, 0xFE], .bits16)
        #expect(
            word.base == 5 && word.index == 6 && word.displacement == -2 && word.segment == SegmentNumber.ss)
        #expect(try decode([0x67, 0x8B, 0x00], .bits16).addressSize == 4)
    }

    @Test func `only FS and GS override in 64-bit mode`() throws {
        #expect(try decode([0x64, 0x3E, 0x8B, 0x00]).segment == SegmentNumber.fs)
        #expect(try decode([0x3E, 0x8B, 0x04, 0x24]).segment == SegmentNumber.ss)
        #expect(try decode([0x3E, 0x8B, 0x45, 0x00], .bits32).segment == SegmentNumber.ds)
        #expect(try decode([0x65, 0xA4]).segment == SegmentNumber.gs)
    }

    @Test func `LOCK needs a lockable instruction with a memory destination`() throws {
        #expect(try decode([0xF0, 0x01, 0x00]).prefixes.contains(.lock))
        #expect(failure([0xF0, 0x01, 0xC8]) == .undefinedOpcode)
        #expect(failure([0xF0, 0x03, 0x00]) == .undefinedOpcode)
        #expect(failure([0xF0, 0x39, 0x00]) == .undefinedOpcode)
        #expect(failure([0xF0, 0x90]) == .undefinedOpcode)
    }

    @Test func `mandatory prefixes choose the row and F3 beats 66`() throws {
        #expect(try decode([0x0F, 0x58, 0xC1]).mnemonic == .addps)
        #expect(try decode([0x66, 0x0F, 0x58, 0xC1]).mnemonic == .addpd)
        #expect(try decode([0x66, 0xF3, 0x0F, 0x58, 0xC1]).mnemonic == .addss)
        #expect(try decode([0xF2, 0xF3, 0x0F, 0x58, 0xC1]).mnemonic == .addss)
        #expect(try decode([0xF3, 0xF2, 0x0F, 0x58, 0xC1]).mandatoryPrefix == 0xF2)
        #expect(failure([0xF3, 0x0F, 0x54, 0xC1]) == .undefinedOpcode)
        #expect(try decode([0x66, 0xF2, 0x0F, 0x38, 0xF1, 0xC1]).operand1.size == 2)
        #expect(try decode([0x0F, 0xBC, 0xC1]).mnemonic == .bsf)
        #expect(try decode([0xF3, 0x0F, 0xBC, 0xC1]).mnemonic == .tzcnt)
    }

    @Test func `C4 and C5 are LES and LDS where they name memory outside 64-bit mode`() throws {
        #expect(try decode([0xC5, 0x00], .bits32).mnemonic == .lds)
        #expect(try decode([0xC4, 0x00], .bits16).mnemonic == .les)
        #expect(try decode([0xC5, 0xF8, 0x58, 0xC1], .bits32).mnemonic == .vaddps)
        #expect(try decode([0xC5, 0xF8, 0x58, 0xC1]).operand0.kind == .xmm)
        let wide = try decode([0xC5, 0x74, 0x58, 0xC2])
        #expect(wide.operand0.kind == .ymm && wide.operand0.register == 8 && wide.operand1.register == 1)
        for prefix in [0x66, 0xF2, 0xF3, 0xF0, 0x48] as [UInt8] {
            #expect(failure([prefix, 0xC5, 0xF8, 0x58, 0xC1]) == .undefinedOpcode)
        }
        #expect(failure([0xC5, 0xF0, 0x10, 0xC1]) == .undefinedOpcode, "vvvv of a two-operand form")
        #expect(failure([0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC1]) == .undefinedOpcode, "no EVEX")
    }

    @Test func `a gather needs three different registers`() throws {
        let gather = try decode([0xC4, 0xE2, 0x71, 0x90, 0x1C, 0x50])
        #expect(gather.operand1.kind == .memoryVectorIndex && gather.vectorIndexSize == 16)
        #expect(gather.base == 0 && gather.index == 2 && gather.scaleShift == 1)
        #expect(failure([0xC4, 0xE2, 0x71, 0x90, 0x1C, 0x48]) == .undefinedOpcode)
    }

    @Test func `control registers ignore mod and exist only as 0, 2, 3, 4 and 8`() throws {
        let move = try decode([0x0F, 0x20, 0x18])
        #expect(move.operand0.kind == .gpr && move.operand0.size == 8 && move.operand1.register == 3)
        #expect(move.length == 3)
        #expect(try decode([0x44, 0x0F, 0x22, 0xC0]).operand0.register == 8)
        #expect(failure([0x0F, 0x20, 0xC8]) == .undefinedOpcode)
        #expect(failure([0x44, 0x0F, 0x21, 0xC0]) == .undefinedOpcode)
    }

    @Test func `the sixteenth byte is too long, a missing one truncated`() throws {
        #expect(failure([UInt8](repeating: 0x66, count: 15) + [0x90]) == .tooLong)
        #expect(try decode([UInt8](repeating: 0x66, count: 14) + [0x90]).length == 15)
        #expect(failure([]) == .truncated)
        #expect(failure([0x0F]) == .truncated)
        #expect(failure([0x81, 0x05, 1, 2, 3, 4, 5, 6, 7]) == .truncated)
        #expect(failure([UInt8](repeating: 0x66, count: 12) + [0x81, 0xC0, 1]) == .tooLong)
    }

    @Test func `every proper prefix of an instruction is truncated`() {
        var corpus = DecoderCorpus(seed: 7), cut = 0
        for _ in 0..<20_000 {
            let bytes = corpus.randomString()
            guard let whole = try? decode(bytes) else { continue }
            for count in 0..<Int(whole.length) {
                cut += 1
                guard failure(Array(bytes.prefix(count))) != .truncated else { continue }
                Issue.record("\(bytes.prefix(Int(whole.length))) cut to \(count)")
                return
            }
        }
        #expect(cut > 10_000)
    }

    @Test func `an instruction is at most 96 bytes and its row gives flags and feature`() throws {
        #expect(MemoryLayout<Instruction>.stride <= 96)
        let add = try decode([0x11, 0xC8])
        #expect(add.flagsRead == 1 && add.flagsWritten == 0x8D5 && add.flagsUndefined == 0)
        #expect(add.attributes.contains(.lockable))
        #expect(try decode([0xC5, 0xFC, 0x58, 0xC1]).feature == .avx)
        #expect(try decode([0x0F, 0x30]).attributes.contains(.privileged))
        #expect(Mnemonic.allCases.count == Mnemonic.names.count)
        for row in 0..<InstructionRow.count {
            let number = UInt16(InstructionRows.match[row] >> 48)
            #expect(Mnemonic(rawValue: number) == InstructionRow(index: UInt16(row)).mnemonic)
        }
        #expect(Mnemonic.in.name == "in")
    }

    /// One decodable string per row.
    private func examples() -> [Instruction] {
        var corpus = DecoderCorpus(seed: 11)
        var examples: [UInt16: Instruction] = [:]
        for mode in DecoderReferenceTests.modes {
            for number in 0..<UInt16(InstructionRow.count) {
                for _ in 0..<40 where examples[number] == nil {
                    let bytes = corpus.string(of: InstructionRow(index: number), mode: mode)
                    guard let instruction = try? decode(bytes, mode) else { continue }
                    examples[instruction.row] = instruction
                }
            }
        }
        return Array(examples.values)
    }

    @Test func `a row that touches x87, MMX, SSE or AVX registers says so`() {
        let rows = examples()
        #expect(rows.count > InstructionRow.count * 9 / 10)
        for row in rows {
            for position in 0..<Int(row.operandCount) {
                let expected: RowAttributes =
                    switch row.operand(position).kind {
                    case .st: .x87
                    case .mmx: .mmx
                    case .xmm where !row.prefixes.contains(.vex): .sse
                    case .xmm, .ymm, .memoryVectorIndex: .avx
                    default: []
                    }
                #expect(row.attributes.isSuperset(of: expected), "\(row.mnemonic.name) in row \(row.row)")
            }
        }
    }

    @Test func `legacy SSE aligns sixteen bytes of memory but for the unaligned moves`() {
        let unaligned: Set<Mnemonic> = [
            .movups, .movupd, .movdqu, .lddqu, .maskmovdqu, .pcmpestrm, .pcmpestri, .pcmpistrm, .pcmpistri,
        ]
        for row in examples() where row.attributes.contains(.sse) {
            for position in 0..<Int(row.operandCount)
            where row.operand(position).kind == .memory && row.operand(position).size == 16 {
                #expect(
                    row.attributes.contains(.aligned) != unaligned.contains(row.mnemonic),
                    "\(row.mnemonic.name) in row \(row.row)")
            }
        }
    }

    @Test func `lockable rows write their destination and strings go by DF`() {
        for row in examples() where row.attributes.contains(.lockable) {
            #expect(row.operand0.isWritten, "\(row.mnemonic.name) is lockable")
        }
        for row in examples() where row.attributes.contains(.string) {
            #expect(row.flagsRead & 0x400 != 0, "\(row.mnemonic.name) goes by DF")
        }
    }

    @Test func `the generated files say what the table says`() throws {
        let sources = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("Sources/SoftCPU/Decode").path
        let programs = URL(fileURLWithPath: CommandLine.arguments[0]).resolvingSymlinksInPath()
            .deletingLastPathComponent()
        let generator = programs.appendingPathComponent("table-generator")
        try #require(
            FileManager.default.isExecutableFile(atPath: generator.path),
            "\(generator.path) is built with the tests")
        let process = Process(), output = Pipe()
        process.executableURL = generator
        process.arguments = [sources, "--check"]
        process.standardError = output
        try process.run()
        let complaint = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        #expect(process.terminationStatus == 0, "\(String(decoding: complaint, as: UTF8.self))")
    }
}

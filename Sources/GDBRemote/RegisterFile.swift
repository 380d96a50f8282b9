internal import X86Architecture

/// gdb's numbers and bytes of registers, in and out of a vCPU's state. All values are little-endian.
enum RegisterFile {
    static let rows = RegisterFeature.all.flatMap(\.rows)

    /// All of them in the order of their numbers, as in a `g` packet.
    static func all(of state: VCPUState) -> [UInt8] { rows.flatMap { bytes(of: $0, state) } }
    static let allByteCount = rows.reduce(0) { $0 + $1.byteCount }

    static func bytes(of row: RegisterRow, _ state: VCPUState) -> [UInt8] {
        switch row.place {
        case .image(let offset, let component):
            return image(state, offset, component, row.imageWidth) + padding(row)
        case .tagWord: return split(UInt64(tagWord(state)), row.byteCount)
        default: return split(number(row.place, state), row.byteCount)
        }
    }

    private static func padding(_ row: RegisterRow) -> [UInt8] {
        [UInt8](repeating: 0, count: row.byteCount - row.imageWidth)
    }

    private static func split(_ value: UInt64, _ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64(8 * $0)) }
    }

    private static func number(_ place: RegisterRow.Place, _ state: VCPUState) -> UInt64 {
        switch place {
        case .general(let number): state.gpr[number]
        case .rip: state.rip
        case .rflags: state.rflags
        case .selector(let segment): UInt64(state.segments[Int(segment.rawValue)].selector)
        case .base(let segment): state.segments[Int(segment.rawValue)].base
        case .kernelGSBase: state.msrs[MSR.kernelGSBase] ?? 0
        case .cr0: state.cr0
        case .cr2: state.cr2
        case .cr3: state.cr3
        case .cr4: state.cr4
        case .cr8: state.cr8
        case .efer: state.efer
        case .image, .tagWord: 0
        }
    }

    // MARK: Writing

    /// False: the register cannot have that value.
    static func set(_ row: RegisterRow, to bytes: ArraySlice<UInt8>, in state: inout VCPUState) -> Bool {
        guard bytes.count == row.byteCount else { return false }
        let value = bytes.prefix(8).reversed().reduce(0 as UInt64) { $0 << 8 | UInt64($1) }
        switch row.place {
        case .general(let number): state.gpr[number] = value
        case .rip: state.rip = value
        // gdb has 32 bits of it; the others are zero.
        case .rflags: state.rflags = value | RFlags.alwaysOne.rawValue
        case .selector(let segment): return setSelector(segment, value, in: &state)
        case .base(let segment): state.segments[Int(segment.rawValue)].base = value
        case .kernelGSBase: state.msrs[MSR.kernelGSBase] = value
        case .cr0: state.cr0 = value
        case .cr2: state.cr2 = value
        case .cr3: state.cr3 = value
        case .cr4: state.cr4 = value
        case .cr8: state.cr8 = value & 0xF
        case .efer: state.efer = value
        case .image(let offset, let component):
            setImage(&state, offset, component, bytes.prefix(row.imageWidth))
        case .tagWord: setTagWord(UInt16(truncatingIfNeeded: value), in: &state)
        }
        return true
    }

    /// Outside real mode a selector stands for a descriptor, which only the guest can load.
    private static func setSelector(
        _ segment: SegmentRegister, _ value: UInt64, in state: inout VCPUState
    ) -> Bool {
        let index = Int(segment.rawValue)
        if UInt64(state.segments[index].selector) == value { return true }
        let isReal =
            state.cr0 & CR0.protectionEnable == 0
            || state.rflags & RFlags.virtual8086.rawValue != 0
        guard isReal, let selector = UInt16(exactly: value) else { return false }
        state.segments[index].selector = selector
        state.segments[index].base = UInt64(selector) << 4
        return true
    }

    // MARK: Extended state

    private static let header = 512

    /// A component whose bit is clear is as after its initialisation, whatever its bytes hold.
    private static func isInitial(_ state: VCPUState, _ component: ExtendedComponent) -> Bool {
        state.xsave.count <= header || state.xsave[header] & component.rawValue == 0
    }

    private static func initialByte(_ offset: Int) -> UInt8 {
        switch offset {
        case 0: 0x7F
        case 1: 0x03
        case 24: 0x80
        case 25: 0x1F
        default: 0
        }
    }

    private static func image(
        _ state: VCPUState, _ offset: Int, _ component: ExtendedComponent, _ count: Int
    ) -> [UInt8] {
        // MXCSR counts always (SDM vol. 1 §13.8).
        let isInitial = offset != 24 && isInitial(state, component)
        return (offset..<offset + count).map {
            isInitial || $0 >= state.xsave.count ? initialByte($0) : state.xsave[$0]
        }
    }

    private static func bytes(of component: ExtendedComponent) -> [Range<Int>] {
        switch component {
        case .x87: [0..<24, 32..<160]
        case .sse: [160..<416]
        case .avx: [576..<832]
        }
    }

    private static func setImage(
        _ state: inout VCPUState, _ offset: Int, _ component: ExtendedComponent, _ bytes: ArraySlice<UInt8>
    ) {
        guard offset + bytes.count <= state.xsave.count, state.xsave.count > header else { return }
        if isInitial(state, component) {
            for range in Self.bytes(of: component) where range.upperBound <= state.xsave.count {
                for index in range { state.xsave[index] = initialByte(index) }
            }
            state.xsave[header] |= component.rawValue
        }
        for (index, byte) in bytes.enumerated() { state.xsave[offset + index] = byte }
    }

    // MARK: x87 tags (SDM vol. 1 §8.1.7): 0 valid, 1 zero, 2 special, 3 empty

    private static func tagWord(_ state: VCPUState) -> UInt16 {
        let used = image(state, 4, .x87, 1)[0]
        let top = Int(image(state, 3, .x87, 1)[0] >> 3) & 7
        var word: UInt16 = 0
        for register in 0..<8 {
            let tag = used >> UInt8(register) & 1 == 0 ? 3 : tag(of: (register - top) & 7, state)
            word |= tag << UInt16(2 * register)
        }
        return word
    }

    private static func tag(of stackPlace: Int, _ state: VCPUState) -> UInt16 {
        let bytes = image(state, 32 + 16 * stackPlace, .x87, 10)
        let exponent = (UInt16(bytes[9]) << 8 | UInt16(bytes[8])) & 0x7FFF
        if exponent == 0 { return bytes[0..<8].allSatisfy { $0 == 0 } ? 1 : 2 }
        return exponent == 0x7FFF || bytes[7] & 0x80 == 0 ? 2 : 0
    }

    private static func setTagWord(_ word: UInt16, in state: inout VCPUState) {
        var used: UInt8 = 0
        for register in 0..<8 where word >> UInt16(2 * register) & 3 != 3 { used |= 1 << UInt8(register) }
        setImage(&state, 4, .x87, [used])
    }
}

extension RegisterRow {
    /// Bytes of the image that gdb's register shows; the others are zero.
    fileprivate var imageWidth: Int {
        switch name {
        case "fctrl", "fstat", "fiseg", "foseg", "fop": 2
        default: byteCount
        }
    }
}

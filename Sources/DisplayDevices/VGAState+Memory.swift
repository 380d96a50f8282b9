/// The four planes behind A0000h to BFFFFh (IBM VGA technical reference, "Video Memory Organization"). A
/// dword of video memory holds one byte of each plane.
extension VGAState {
    /// The place in the planes' address space of an offset from A0000h, or nil where nothing answers.
    private func place(_ offset: Int) -> Int? {
        switch graphics[GraphicsRegister.miscellaneous] >> 2 & 3 {
        case 0: return offset
        case 1: return offset < 0x1_0000 ? offset + bankOffset : nil
        case 2: return (0x1_0000..<0x1_8000).contains(offset) ? offset - 0x1_0000 : nil
        default: return offset >= 0x1_8000 ? offset - 0x1_8000 : nil
        }
    }

    private var isChained: Bool { sequencer[SequencerRegister.memoryMode] & SequencerRegister.chain4 != 0 }
    private var isOddEven: Bool { graphics[GraphicsRegister.mode] & GraphicsRegister.oddEven != 0 }

    /// Each bit of `mask` (one for each plane) as a byte of ones.
    private static func spread(_ mask: UInt8) -> UInt32 {
        var value: UInt32 = 0
        for plane in 0..<4 as Range<UInt32> where mask >> plane & 1 != 0 { value |= 0xFF << (8 * plane) }
        return value
    }

    /// A byte in all planes.
    private static func repeated(_ byte: UInt8) -> UInt32 { UInt32(byte) &* 0x0101_0101 }

    mutating func readMemory(_ offset: Int, _ memory: VideoMemory) -> UInt8 {
        guard let place = place(offset) else { return 0xFF }
        if isChained { return memory[place] }
        var plane = Int(graphics[GraphicsRegister.readPlane])
        var address = place * 4
        if isOddEven {
            plane = plane & 2 | place & 1
            // Even and odd addresses share a place in their planes.
            address = (place & ~1) << 1
        }
        latch = memory[planes: address]
        guard graphics[GraphicsRegister.mode] & GraphicsRegister.readMode != 0 else {
            return UInt8(truncatingIfNeeded: latch >> UInt32(8 * plane))
        }
        // Ones where the planes that are cared for have the colour.
        let colors = Self.spread(graphics[GraphicsRegister.colorCompare])
        let differs = (latch ^ colors) & Self.spread(graphics[GraphicsRegister.colorDontCare])
        let folded = differs | differs >> 16
        return ~UInt8(truncatingIfNeeded: folded | folded >> 8)
    }

    mutating func writeMemory(_ offset: Int, _ value: UInt8, _ memory: VideoMemory) {
        guard let place = place(offset) else { return }
        let planes = sequencer[SequencerRegister.planeMask]
        if isChained {
            if planes >> UInt8(place & 3) & 1 != 0 { memory[place] = value }
            return
        }
        if isOddEven {
            let plane = place & 1
            // The plane mask chooses among both pairs.
            for plane in [plane, plane + 2] where planes >> UInt8(plane) & 1 != 0 {
                memory[(place & ~1) << 1 | plane] = value
            }
            return
        }
        let mask = Self.spread(planes), address = place * 4
        memory[planes: address] = memory[planes: address] & ~mask | combined(value) & mask
    }

    /// What the graphics controller makes of a processor's byte, §"Write Modes".
    private func combined(_ value: UInt8) -> UInt32 {
        let rotation = graphics[GraphicsRegister.rotate] & 7
        let rotated = value >> rotation | value << ((8 - rotation) & 7)
        let setReset = Self.spread(graphics[GraphicsRegister.setReset])
        var bitMask = Self.repeated(graphics[GraphicsRegister.bitMask])
        var data: UInt32
        switch graphics[GraphicsRegister.mode] & 3 {
        case 0:
            let enabled = Self.spread(graphics[GraphicsRegister.enableSetReset])
            data = Self.repeated(rotated) & ~enabled | setReset & enabled
        case 1: return latch
        case 2: data = Self.spread(value & 0x0F)
        default:
            bitMask &= Self.repeated(rotated)
            data = setReset
        }
        switch graphics[GraphicsRegister.rotate] >> 3 & 3 {
        case 1: data &= latch
        case 2: data |= latch
        case 3: data ^= latch
        default: break
        }
        return data & bitMask | latch & ~bitMask
    }
}

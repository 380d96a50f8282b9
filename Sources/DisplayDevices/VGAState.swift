/// The registers of a VGA and what its ports do with them. Pure.
///
/// Confinement: a value; its owner locks.
struct VGAState: Codable, Sendable, Equatable {
    var attribute = [UInt8](repeating: 0, count: AttributeRegister.count)
    var attributeIndex: UInt8 = 0
    /// The next write to the attribute port is data.
    var attributeHasIndex = false
    var sequencer = [UInt8](repeating: 0, count: SequencerRegister.count)
    var sequencerIndex: UInt8 = 0
    var graphics = [UInt8](repeating: 0, count: GraphicsRegister.count)
    var graphicsIndex: UInt8 = 0
    var controller = [UInt8](repeating: 0, count: ControllerRegister.count)
    var controllerIndex: UInt8 = 0
    var miscellaneous: UInt8 = 0
    var feature: UInt8 = 0
    /// Of input status 1: it changes whenever somebody looks, so that nobody waits long for a retrace.
    var status: UInt8 = 0
    /// 256 colours of red, green and blue.
    var palette = [UInt8](repeating: 0, count: 768)
    var paletteMask: UInt8 = 0xFF
    var paletteIndex: UInt8 = 0
    var paletteComponent: UInt8 = 0
    var paletteIsRead = false
    /// A byte of each plane, as the last read left them.
    var latch: UInt32 = 0
    var bochs: [UInt16]
    var bochsIndex: UInt16 = 0

    /// Display enable and vertical retrace, of input status 1.
    private static let retrace: UInt8 = 0x09

    /// - Parameter memory: in bytes.
    init(memory: Int) {
        bochs = [UInt16](repeating: 0, count: BochsRegister.count)
        bochs[BochsRegister.id] = BochsRegister.lastID
        bochs[BochsRegister.memory] = UInt16(memory >> 16)
    }

    /// Whether every index is in range: a state may come from anywhere.
    var isSound: Bool {
        attribute.count == AttributeRegister.count && sequencer.count == SequencerRegister.count
            && graphics.count == GraphicsRegister.count && controller.count == ControllerRegister.count
            && palette.count == 768 && paletteComponent < 3 && bochs.count == BochsRegister.count
            && bochs[BochsRegister.width] <= BochsRegister.largestWidth
            && bochs[BochsRegister.height] <= BochsRegister.largestHeight
            && bochs[BochsRegister.bitsPerPixel] <= BochsRegister.mostBits
    }

    /// The CRT controller and status ports of colour, or nil when this is a port of the other emulation.
    private func colorPort(_ port: UInt16) -> UInt16? {
        guard (0x3B0...0x3BF).contains(port) || (0x3D0...0x3DF).contains(port) else { return port }
        let isColor = miscellaneous & 1 != 0
        guard isColor == (port >= 0x3D0) else { return nil }
        return isColor ? port : port + VGAPort.monochromeOffset
    }

    // MARK: Ports

    mutating func read(_ port: UInt16) -> UInt8 {
        guard let port = colorPort(port) else { return 0xFF }
        switch port {
        case VGAPort.attribute: return attributeHasIndex ? 0 : attributeIndex
        case VGAPort.attributeRead:
            let index = Int(attributeIndex & 0x1F)
            return index < attribute.count ? attribute[index] : 0
        // Input status 0: a monitor is there.
        case VGAPort.miscellaneousWrite: return 0x10
        case VGAPort.enable: return 1
        case VGAPort.sequencerIndex: return sequencerIndex
        case VGAPort.sequencer: return register(sequencer, sequencerIndex)
        case VGAPort.paletteMask: return paletteMask
        case VGAPort.paletteReadIndex: return paletteIsRead ? 3 : 0
        case VGAPort.paletteWriteIndex: return paletteIndex
        case VGAPort.palette: return nextPaletteByte(nil)
        case VGAPort.feature: return feature
        case VGAPort.miscellaneousRead: return miscellaneous
        case VGAPort.graphicsIndex: return graphicsIndex
        case VGAPort.graphics: return register(graphics, graphicsIndex)
        case VGAPort.controllerIndex: return controllerIndex
        case VGAPort.controller: return register(controller, controllerIndex)
        case VGAPort.status:
            attributeHasIndex = false
            status ^= Self.retrace
            return status
        default: return 0xFF
        }
    }

    private func register(_ registers: [UInt8], _ index: UInt8) -> UInt8 {
        Int(index) < registers.count ? registers[Int(index)] : 0
    }

    mutating func write(_ port: UInt16, _ value: UInt8) {
        guard let port = colorPort(port) else { return }
        switch port {
        case VGAPort.attribute: writeAttribute(value)
        case VGAPort.miscellaneousWrite: miscellaneous = value
        case VGAPort.sequencerIndex: sequencerIndex = value & 7
        case VGAPort.sequencer:
            let masks: [UInt8] = [0x03, 0x3D, 0x0F, 0x3F, 0x0E]
            if Int(sequencerIndex) < masks.count {
                sequencer[Int(sequencerIndex)] = value & masks[Int(sequencerIndex)]
            }
        case VGAPort.paletteMask: paletteMask = value
        case VGAPort.paletteReadIndex, VGAPort.paletteWriteIndex:
            paletteIndex = value
            paletteComponent = 0
            paletteIsRead = port == VGAPort.paletteReadIndex
        case VGAPort.palette: _ = nextPaletteByte(value)
        case VGAPort.graphicsIndex: graphicsIndex = value & 0x0F
        case VGAPort.graphics:
            let masks: [UInt8] = [0x0F, 0x0F, 0x0F, 0x1F, 0x03, 0x7B, 0x0F, 0x0F, 0xFF]
            if Int(graphicsIndex) < masks.count {
                graphics[Int(graphicsIndex)] = value & masks[Int(graphicsIndex)]
            }
        case VGAPort.controllerIndex: controllerIndex = value
        case VGAPort.controller: writeController(value)
        case VGAPort.status: feature = value & 0x10
        default: break
        }
    }

    private mutating func writeAttribute(_ value: UInt8) {
        defer { attributeHasIndex.toggle() }
        guard attributeHasIndex else {
            attributeIndex = value & 0x3F
            return
        }
        let index = Int(attributeIndex & 0x1F)
        // The palette belongs to the screen while it is shown.
        guard index < attribute.count, index >= 0x10 || attributeIndex & AttributeRegister.screenOn == 0
        else {
            return
        }
        let masks: [UInt8] = [0xEF, 0xFF, 0x3F, 0x0F, 0x0F]
        attribute[index] = value & (index < 0x10 ? 0x3F : masks[index - 0x10])
    }

    private mutating func writeController(_ value: UInt8) {
        let index = Int(controllerIndex)
        guard index < controller.count else { return }
        if controller[ControllerRegister.retraceEnd] & ControllerRegister.protect != 0, index <= 7 {
            // Bit 4 of the overflow register, the line compare's, is not protected.
            guard index == ControllerRegister.overflow else { return }
            controller[index] = controller[index] & ~0x10 | value & 0x10
            return
        }
        controller[index] = value
    }

    /// Reads the next component of a colour, or replaces it.
    private mutating func nextPaletteByte(_ new: UInt8?) -> UInt8 {
        let place = Int(paletteIndex) * 3 + Int(paletteComponent)
        let old = palette[place]
        if let new { palette[place] = usesWideColors ? new : new & 0x3F }
        paletteComponent += 1
        if paletteComponent == 3 {
            paletteComponent = 0
            paletteIndex &+= 1
        }
        return old
    }

    // MARK: Bochs' registers

    var isBochsEnabled: Bool { bochs[BochsRegister.enable] & BochsRegister.enabled != 0 }
    var usesWideColors: Bool { bochs[BochsRegister.enable] & BochsRegister.wideColors != 0 }
    /// Where the window at A0000h begins in video memory.
    var bankOffset: Int { isBochsEnabled ? Int(bochs[BochsRegister.bank]) << 16 : 0 }

    func readBochs(_ index: Int) -> UInt16 {
        guard index < bochs.count else { return 0 }
        guard bochs[BochsRegister.enable] & BochsRegister.capabilities != 0 else { return bochs[index] }
        switch index {
        case BochsRegister.width: return BochsRegister.largestWidth
        case BochsRegister.height: return BochsRegister.largestHeight
        case BochsRegister.bitsPerPixel: return BochsRegister.mostBits
        default: return bochs[index]
        }
    }

    /// Returns whether the guest wants a mode whose memory is cleared.
    mutating func writeBochs(_ index: Int, _ value: UInt16) -> Bool {
        switch index {
        case BochsRegister.id:
            if (BochsRegister.firstID...BochsRegister.lastID).contains(value) { bochs[index] = value }
        case BochsRegister.width: if value <= BochsRegister.largestWidth { bochs[index] = value & ~7 }
        case BochsRegister.height: if value <= BochsRegister.largestHeight { bochs[index] = value }
        case BochsRegister.bitsPerPixel:
            let bits = value == 0 ? 8 : value
            if [4, 8, 15, 16, 24, 32].contains(bits) { bochs[index] = bits }
        case BochsRegister.bank:
            if Int(value) < Int(bochs[BochsRegister.memory]) { bochs[index] = value }
        case BochsRegister.virtualWidth, BochsRegister.xOffset, BochsRegister.yOffset:
            bochs[index] = value
            fitVirtualScreen()
        case BochsRegister.enable: return enableBochs(value)
        default: break
        }
        return false
    }

    private mutating func enableBochs(_ value: UInt16) -> Bool {
        let wasEnabled = isBochsEnabled
        bochs[BochsRegister.enable] = value & 0xE3
        guard isBochsEnabled, !wasEnabled else { return false }
        bochs[BochsRegister.virtualWidth] = bochs[BochsRegister.width]
        bochs[BochsRegister.xOffset] = 0
        bochs[BochsRegister.yOffset] = 0
        bochs[BochsRegister.bank] = 0
        fitVirtualScreen()
        // The window at A0000h is 64 KiB of video memory as it is.
        graphics[GraphicsRegister.miscellaneous] = 0x05
        graphics[GraphicsRegister.mode] &= ~(GraphicsRegister.oddEven | GraphicsRegister.readMode | 3)
        sequencer[SequencerRegister.planeMask] = 0x0F
        if bochs[BochsRegister.bitsPerPixel] > 4 {
            sequencer[SequencerRegister.memoryMode] |= SequencerRegister.chain4
        }
        return value & BochsRegister.keepMemory == 0
    }

    /// Bytes in a line of the virtual screen.
    var bochsPitch: Int {
        let pixels = Int(bochs[BochsRegister.virtualWidth]), bits = Int(bochs[BochsRegister.bitsPerPixel])
        return bits == 4 ? pixels / 2 : pixels * ((bits + 7) / 8)
    }

    /// The virtual screen is as high as the memory has lines for.
    private mutating func fitVirtualScreen() {
        if bochs[BochsRegister.virtualWidth] < bochs[BochsRegister.width] {
            bochs[BochsRegister.virtualWidth] = bochs[BochsRegister.width]
        }
        let memory = Int(bochs[BochsRegister.memory]) << 16
        bochs[BochsRegister.virtualHeight] = UInt16(clamping: memory / max(bochsPitch, 1))
    }
}

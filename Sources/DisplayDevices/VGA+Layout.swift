/// The VGA's ports (IBM VGA technical reference; FreeVGA, "VGA/SVGA Video Programming - Ports").
enum VGAPort {
    static let attribute: UInt16 = 0x3C0, attributeRead: UInt16 = 0x3C1
    /// Read: input status 0.
    static let miscellaneousWrite: UInt16 = 0x3C2
    static let enable: UInt16 = 0x3C3
    static let sequencerIndex: UInt16 = 0x3C4, sequencer: UInt16 = 0x3C5
    static let paletteMask: UInt16 = 0x3C6, paletteReadIndex: UInt16 = 0x3C7
    static let paletteWriteIndex: UInt16 = 0x3C8, palette: UInt16 = 0x3C9
    static let feature: UInt16 = 0x3CA, miscellaneousRead: UInt16 = 0x3CC
    static let graphicsIndex: UInt16 = 0x3CE, graphics: UInt16 = 0x3CF
    static let controllerIndex: UInt16 = 0x3D4, controller: UInt16 = 0x3D5
    /// Write: feature control. With monochrome emulation the last three are at 3B4h, 3B5h and 3BAh.
    static let status: UInt16 = 0x3DA
    static let monochromeOffset: UInt16 = 0x20
}

/// Attribute controller registers: 0-0Fh the palette.
enum AttributeRegister {
    static let count = 0x15
    static let mode = 0x10, overscan = 0x11, planeEnable = 0x12, panning = 0x13, colorSelect = 0x14
    /// In the index: the screen shows the palette.
    static let screenOn: UInt8 = 0x20
    static let graphicsMode: UInt8 = 1 << 0, eightBitColor: UInt8 = 1 << 6, paletteSelect: UInt8 = 1 << 7
}

enum SequencerRegister {
    static let count = 5
    static let reset = 0, clocking = 1, planeMask = 2, fontSelect = 3, memoryMode = 4
    static let nineDots: UInt8 = 1 << 0, screenOff: UInt8 = 1 << 5
    static let oddEvenOff: UInt8 = 1 << 2, chain4: UInt8 = 1 << 3
}

enum GraphicsRegister {
    static let count = 9
    static let setReset = 0, enableSetReset = 1, colorCompare = 2, rotate = 3, readPlane = 4, mode = 5
    static let miscellaneous = 6, colorDontCare = 7, bitMask = 8
    static let readMode: UInt8 = 1 << 3, oddEven: UInt8 = 1 << 4
    static let interleaved: UInt8 = 1 << 5, color256: UInt8 = 1 << 6
    /// In the miscellaneous register.
    static let graphics: UInt8 = 1 << 0
}

/// CRT controller registers.
enum ControllerRegister {
    static let count = 0x19
    static let displayEnd = 0x01, overflow = 0x07, maximumScan = 0x09
    static let cursorStart = 0x0A, cursorEnd = 0x0B, startHigh = 0x0C, startLow = 0x0D
    static let cursorHigh = 0x0E, cursorLow = 0x0F, retraceEnd = 0x11, verticalEnd = 0x12
    static let offset = 0x13, underline = 0x14, mode = 0x17, lineCompare = 0x18
    /// In `retraceEnd`: registers 0 to 7 are read-only.
    static let protect: UInt8 = 0x80
}

/// Bochs' extension of the VBE, "dispi", version 5 (Bochs iodev/display/vga.h; QEMU docs/specs/standard-vga).
enum BochsRegister {
    static let indexPort: UInt16 = 0x1CE, dataPort: UInt16 = 0x1CF, alignedDataPort: UInt16 = 0x1D0
    static let count = 0x0B
    static let id = 0, width = 1, height = 2, bitsPerPixel = 3, enable = 4, bank = 5
    static let virtualWidth = 6, virtualHeight = 7, xOffset = 8, yOffset = 9, memory = 0x0A
    static let firstID: UInt16 = 0xB0C0, lastID: UInt16 = 0xB0C5
    static let enabled: UInt16 = 0x01, capabilities: UInt16 = 0x02, wideColors: UInt16 = 0x20
    static let linear: UInt16 = 0x40, keepMemory: UInt16 = 0x80
    static let largestWidth: UInt16 = 16_000, largestHeight: UInt16 = 12_000, mostBits: UInt16 = 32
}

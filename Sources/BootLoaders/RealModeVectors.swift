internal import ByteLayout

/// The real-mode interrupt vectors that a BIOS would leave to a kernel that goes back to real mode, or that
/// allows interrupts before it has programmed the interrupt controllers: the timer's counts ticks, the other
/// lines' end their interrupt, everything else returns.
enum RealModeVectors {
    /// In the extended BIOS data area, behind its first byte.
    private static let start: UInt64 = 0x9_FC10
    private static let segment: UInt32 = 0x9FC1

    /// 16-bit code; flags come back with IRET.
    private static let plain: [UInt8] = [0xCF]  // iret
    private static let tick: [UInt8] = [
        0x50, 0x1E,  // push ax; push ds
        0x31, 0xC0, 0x8E, 0xD8,  // xor ax, ax; mov ds, ax
        0x66, 0xFF, 0x06, 0x6C, 0x04,  // inc dword [46Ch], ticks since midnight
        0xB0, 0x20, 0xE6, 0x20,  // mov al, 20h; out 20h, al
        0x1F, 0x58, 0xCF,  // pop ds; pop ax; iret
    ]
    private static let masterLine: [UInt8] = [
        0x50, 0xB0, 0x20, 0xE6, 0x20, 0x58, 0xCF,  // push ax; mov al, 20h; out 20h, al; pop ax; iret
    ]
    private static let slaveLine: [UInt8] = [
        0x50, 0xB0, 0x20, 0xE6, 0xA0, 0xE6, 0x20, 0x58, 0xCF,  // the same, out A0h, al before
    ]

    /// For interrupt controllers that count their lines from vectors 8 and 70h.
    static func install(in places: PlacementMap) throws(BootError) {
        var code: [UInt8] = []
        func add(_ routine: [UInt8]) -> UInt32 {
            defer { code += routine }
            return UInt32(code.count)
        }
        let plain = add(plain), tick = add(tick), master = add(masterLine), slave = add(slaveLine)
        var vectors: [UInt8] = []
        for vector in 0..<256 {
            let offset =
                switch vector {
                case 0x08: tick
                case 0x09...0x0F: master
                case 0x70...0x77: slave
                default: plain
                }
            vectors.append(littleEndian: segment << 16 | offset)
        }
        try places.install("interrupt vectors", code[...], at: start)
        try places.install("interrupt vectors", vectors[...], at: 0)
    }
}

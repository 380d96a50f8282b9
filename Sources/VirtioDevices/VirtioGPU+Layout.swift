internal import ByteLayout

/// Numbers of VIRTIO 1.3 §5.7; all fields are little-endian.
enum GPUFeature { static let edid: UInt64 = 1 << 1 }

/// struct virtio_gpu_config, §5.7.4.
enum GPUConfigField {
    static let eventsRead = 0, eventsClear = 4, scanoutCount = 8
    static let size = 16
    /// In `events_read`: the display has another size.
    static let displayEvent: UInt32 = 1 << 0
}

/// enum virtio_gpu_ctrl_type, §5.7.6.7.
enum GPUCommand: UInt32 {
    case getDisplayInfo = 0x100
    case createResource, unrefResource, setScanout, flushResource, transferToHost, attachBacking
    case detachBacking
    case getEDID = 0x10A
    case updateCursor = 0x300, moveCursor
}

enum GPUAnswer: UInt32 {
    case ok = 0x1100, displayInfo = 0x1101, edid = 0x1104
    case unspecified = 0x1200, outOfMemory, invalidScanout, invalidResource, invalidContext, invalidParameter
}

/// struct virtio_gpu_ctrl_hdr, §5.7.6.7: le32 type, le32 flags, le64 fence_id, le32 ctx_id, u8 ring_idx,
/// u8 padding[3].
struct GPUHeader {
    static let size = 24
    private static let fenceFlag: UInt32 = 1 << 0

    let type: UInt32
    private let flags: UInt32, fence: UInt64, context: UInt32, ring: UInt32

    /// What is missing of a request reads as zero.
    init(_ request: [UInt8]) {
        type = request.gpuField(0)
        flags = request.gpuField(4)
        fence = UInt64(request.gpuField(8)) | UInt64(request.gpuField(12)) << 32
        context = request.gpuField(16)
        ring = request.gpuField(20)
    }

    /// The header of the answer; it repeats the fence, which is signalled by that.
    func answer(_ type: GPUAnswer) -> [UInt8] {
        let isFenced = flags & Self.fenceFlag != 0
        var bytes: [UInt8] = []
        bytes.append(littleEndian: type.rawValue)
        bytes.append(littleEndian: isFenced ? Self.fenceFlag : 0)
        bytes.append(littleEndian: isFenced ? fence : 0)
        bytes.append(littleEndian: isFenced ? context : 0)
        bytes.append(littleEndian: isFenced ? ring & 0xFF : 0)
        return bytes
    }
}

/// Where the fields of requests are, from their first byte (§5.7.6.8 and §5.7.6.10).
enum GPUField {
    /// Of every request whose first field is a rectangle: le32 x, y, width, height.
    static let rectangle = 24
    /// Of the others.
    static let resource = 24
    static let format = 28, width = 32, height = 36
    static let scanout = 40, scanoutResource = 44
    static let flushResource = 40
    static let transferOffset = 40, transferResource = 48
    static let entryCount = 28, entries = 32, entrySize = 16
    static let edidScanout = 24
    static let cursorScanout = 24, cursorX = 28, cursorY = 32
    static let cursorResource = 40, cursorHotX = 44, cursorHotY = 48
    /// The longest request without its entries.
    static let longest = 56
}

/// Answers with more than a header.
enum GPUAnswerLayout {
    /// VIRTIO_GPU_MAX_SCANOUTS; each le32 x, y, width, height, enabled, flags.
    static let scanouts = 16, scanoutSize = 24
    static let largestEDID = 1024
}

/// enum virtio_gpu_formats, §5.7.6.8, named by the order of the bytes in memory.
enum GPUFormat: UInt32, Codable, Sendable, CaseIterable {
    case bgra = 1, bgrx = 2, argb = 3, xrgb = 4, rgba = 67, xbgr = 68, abgr = 121, rgbx = 134

    /// A pixel as a number (little-endian) becomes alpha, red, green, blue from bit 31 down. Of formats
    /// without alpha that byte stays, too: a screen has no use for it, but Linux's driver makes cursors in
    /// them and means alpha.
    func standard(_ pixel: UInt32) -> UInt32 {
        switch self {
        case .bgra, .bgrx: pixel
        case .argb, .xrgb: pixel.byteSwapped
        case .rgba, .rgbx: Self.swapped(pixel)
        case .abgr, .xbgr: pixel >> 8 | pixel << 24
        }
    }

    /// Exchanges the bytes of red and blue.
    private static func swapped(_ pixel: UInt32) -> UInt32 {
        pixel & 0xFF00_FF00 | pixel >> 16 & 0xFF | pixel << 16 & 0xFF_0000
    }
}

extension [UInt8] {
    /// A le32 of a request; zero where the request has ended.
    func gpuField(_ place: Int) -> UInt32 { load(littleEndian: UInt32.self, at: place) ?? 0 }
}

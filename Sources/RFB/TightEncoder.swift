internal import Compression

/// Tight (rfbproto, "Tight Encoding"): one colour, a palette, plain pixels or a JPEG picture, in zlib streams
/// of the viewer.
struct TightEncoder {
    /// The largest rectangle that has one palette or one picture.
    static let side = 256
    private enum Control {
        static let fill: UInt8 = 0x80, jpeg: UInt8 = 0x90, filterFollows: UInt8 = 0x40
    }
    private enum Filter { static let palette: UInt8 = 1 }
    /// Streams: plain pixels, two colours, more colours.
    private let streams = (0..<3).map { _ in Deflater(level: 3) }
    /// Shorter data is not compressed.
    private static let shortest = 12
    /// Pictures of fewer colours are drawings, which JPEG blurs.
    private static let fewestPhotoColors = 96

    /// Appends the data of a rectangle of `width` pixels a row, at most `side` each way.
    /// - Parameter pixels: the same in our format, for JPEG.
    /// - Parameter quality: 0 to 9; nil: the viewer takes no JPEG.
    func append(
        _ values: [UInt32], pixels: [UInt32], width: Int, level: Int, quality: Int?,
        _ translator: PixelTranslator, to bytes: inout [UInt8]
    ) {
        var palette: [UInt32: UInt8] = [:], colors: [UInt32] = []
        for value in values where palette[value] == nil {
            guard colors.count < 256 else {
                colors = []
                break
            }
            palette[value] = UInt8(colors.count)
            colors.append(value)
        }
        if colors.count == 1 {
            bytes.append(Control.fill)
            return translator.appendTight(values[0], to: &bytes)
        }
        let isDrawing = !colors.isEmpty && colors.count < Self.fewestPhotoColors
        if let quality, !isDrawing, translator.format.bitsPerPixel > 8,
            let picture = JPEGImage.compress(pixels, width: width, quality: Self.percent(quality))
        {
            bytes.append(Control.jpeg)
            Self.appendLength(picture.count, to: &bytes)
            bytes += picture
            return
        }
        if colors.count >= 2, colors.count * 4 < values.count,
            translator.format.bitsPerPixel > 8 || colors.count == 2
        {
            return appendPalette(
                colors, values.map { palette[$0] ?? 0 }, width: width, level: level, translator, to: &bytes)
        }
        var data: [UInt8] = []
        data.reserveCapacity(values.count * 4)
        for value in values { translator.appendTight(value, to: &data) }
        bytes.append(0)
        appendData(data, stream: 0, level: level, to: &bytes)
    }

    private func appendPalette(
        _ colors: [UInt32], _ indices: [UInt8], width: Int, level: Int, _ translator: PixelTranslator,
        to bytes: inout [UInt8]
    ) {
        let stream = colors.count == 2 ? 1 : 2
        bytes.append(UInt8(stream) << 4 | Control.filterFollows)
        bytes.append(Filter.palette)
        bytes.append(UInt8(colors.count - 1))
        for color in colors { translator.appendTight(color, to: &bytes) }
        guard colors.count == 2 else { return appendData(indices, stream: stream, level: level, to: &bytes) }
        var data: [UInt8] = []
        for row in stride(from: 0, to: indices.count, by: width) {
            for first in stride(from: 0, to: width, by: 8) {
                var byte: UInt8 = 0
                for x in first..<min(first + 8, width) { byte |= indices[row + x] << UInt8(7 - (x - first)) }
                data.append(byte)
            }
        }
        appendData(data, stream: stream, level: level, to: &bytes)
    }

    private func appendData(_ data: [UInt8], stream: Int, level: Int, to bytes: inout [UInt8]) {
        guard data.count >= Self.shortest else {
            bytes += data
            return
        }
        streams[stream].setLevel(level)
        let compressed = streams[stream].compress(data)
        Self.appendLength(compressed.count, to: &bytes)
        bytes += compressed
    }

    /// Seven bits a byte, the lowest first; bit 7 says that another byte follows, the third has eight bits.
    private static func appendLength(_ length: Int, to bytes: inout [UInt8]) {
        precondition(length < 1 << 22, "a length of 22 bits")
        if length < 1 << 7 {
            bytes.append(UInt8(length))
        } else if length < 1 << 14 {
            bytes += [UInt8(length & 0x7F | 0x80), UInt8(length >> 7)]
        } else {
            bytes += [UInt8(length & 0x7F | 0x80), UInt8(length >> 7 & 0x7F | 0x80), UInt8(length >> 14)]
        }
    }

    /// JPEG's quality for the viewer's level.
    private static func percent(_ level: Int) -> Int { 15 + 9 * min(max(level, 0), 9) }
}

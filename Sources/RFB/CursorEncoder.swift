internal import ByteLayout
internal import ScreenSurface

/// Pictures of cursors for viewers that draw them.
enum CursorEncoder {
    /// From here on a pixel is seen where there is no alpha, and its colour is divided by it.
    private static let seen: UInt32 = 128

    /// RFC 6143 §7.8.1: pixels of the viewer's, then rows of bits, whole bytes each, that say which are seen.
    static func append(_ cursor: ScreenCursor, _ translator: PixelTranslator, to bytes: inout [UInt8]) {
        for pixel in cursor.pixels { translator.append(translator.value(solid(pixel)), to: &bytes) }
        for row in stride(from: 0, to: cursor.pixels.count, by: cursor.width) {
            for start in stride(from: 0, to: cursor.width, by: 8) {
                var mask: UInt8 = 0
                for column in start..<min(start + 8, cursor.width)
                where cursor.pixels[row + column] >> 24 >= seen {
                    mask |= 0x80 >> UInt8(column - start)
                }
                bytes.append(mask)
            }
        }
    }

    /// The colour before it was multiplied with alpha.
    private static func solid(_ pixel: UInt32) -> UInt32 {
        let alpha = pixel >> 24
        guard alpha >= seen, alpha < 255 else { return pixel & 0xFF_FFFF }
        return [0, 8, 16].reduce(UInt32(0)) { sum, shift in
            sum | min(((pixel >> shift & 0xFF) * 255 + alpha / 2) / alpha, 255) << shift
        }
    }

    /// rfbproto, "Cursor With Alpha": red, green, blue and alpha, a byte each, multiplied as ours are.
    static func appendAlpha(_ cursor: ScreenCursor, to bytes: inout [UInt8]) {
        for pixel in cursor.pixels {
            bytes += [16, 8, 0, 24].map { UInt8(truncatingIfNeeded: pixel >> $0) }
        }
    }
}

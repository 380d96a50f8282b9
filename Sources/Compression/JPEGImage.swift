internal import CJPEG

/// Baseline JPEG files of pixels XRGB8888 (ITU T.81).
public enum JPEGImage {
    /// The sides that a file can have.
    public static let sides = 1...65_535

    /// - Parameter quality: 1 to 100. Nil when it becomes longer than the pixels.
    public static func compress(_ pixels: [UInt32], width: Int, quality: Int) -> [UInt8]? {
        let height = width > 0 ? pixels.count / width : 0
        guard sides.contains(width), sides.contains(height), pixels.count == width * height else {
            return nil
        }
        var samples: [UInt8] = []
        samples.reserveCapacity(pixels.count * 3)
        for pixel in pixels {
            samples.append(UInt8(truncatingIfNeeded: pixel >> 16))
            samples.append(UInt8(truncatingIfNeeded: pixel >> 8))
            samples.append(UInt8(truncatingIfNeeded: pixel))
        }
        // A small picture needs room for tables.
        var output = [UInt8](repeating: 0, count: pixels.count * 3 + 1024)
        // SAFETY: `width * height * 3` samples, and the array's own count.
        let count = unsafe ospite_jpeg_compress(
            samples, Int32(width), Int32(height), Int32(min(max(quality, 1), 100)), &output, output.count)
        guard count > 0 else { return nil }
        return Array(output.prefix(count))
    }

    /// The pixels of a file of exactly this size; nil for another, or for none.
    public static func decompress(_ file: [UInt8], width: Int, height: Int) -> [UInt32]? {
        guard sides.contains(width), sides.contains(height) else { return nil }
        var samples = [UInt8](repeating: 0, count: width * height * 3)
        // SAFETY: the arrays' own counts; `width * height * 3` samples.
        guard unsafe ospite_jpeg_decompress(file, file.count, &samples, Int32(width), Int32(height)) == 0
        else { return nil }
        return (0..<width * height).map { place -> UInt32 in
            let red = UInt32(samples[3 * place]), green = UInt32(samples[3 * place + 1])
            let blue = UInt32(samples[3 * place + 2])
            return red << 16 | green << 8 | blue
        }
    }
}

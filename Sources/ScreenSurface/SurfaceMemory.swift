public import LinuxHost

/// The pixels of a screen in a memory file that its owner writes and viewers in other processes read, at any
/// time. A pixel is a 32-bit word, XRGB8888: blue in bits 7..0, green, red, and eight bits without meaning.
/// Row `y` begins at word `y * width`. What the size is, is not in here but in the messages of `ScreenLink`:
/// a reader never depends on a number that the writer may change under it.
///
/// Confinement: any thread; a reader may see a pixel of before or after, never half of one.
@safe public final class SurfaceMemory: Sendable {
    /// The largest screen: 16 Mi pixels, whatever its shape.
    public static let mostPixels = 16 << 20
    public static let longestSide = 16_384
    /// Of the file, in bytes; only the pages that were drawn to take memory.
    public static let fileSize = words * 4
    /// The first word of the cursor's picture, which lies behind the largest screen and has the same order:
    /// alpha is in the bits that a pixel of the screen does not use.
    public static let cursorStart = mostPixels
    private static let words = mostPixels + ScreenCursor.longestSide * ScreenCursor.longestSide

    private let mapping: MemoryMapping

    /// Maps a memory file of `fileSize` bytes, sealed against becoming smaller.
    public init(_ file: Descriptor, writable: Bool) throws(HostError) {
        guard try file.facts().size >= UInt64(Self.fileSize) else {
            throw HostError("the memory of the screen is too small", code: 0)
        }
        mapping = try MemoryMapping(file: file.number, size: Self.fileSize, writable: writable)
    }

    /// Whether a screen of this size has room.
    public static func fits(width: Int, height: Int) -> Bool {
        (1...longestSide).contains(width) && (1...longestSide).contains(height)
            && width * height <= mostPixels
    }

    private func check(_ start: Int, _ count: Int) {
        precondition(start >= 0 && count >= 0 && start <= Self.words - count, "outside the surface")
    }

    /// Copies `count` pixels from word `start` to `pixels`, from `place` on.
    public func read(_ start: Int, count: Int, into pixels: inout [UInt32], at place: Int) {
        check(start, count)
        precondition(place >= 0 && place <= pixels.count - count, "outside the pixels")
        // SAFETY: both ranges were checked; the other process may write meanwhile, any value is a pixel.
        unsafe pixels.withUnsafeMutableBytes { bytes in
            unsafe (bytes.baseAddress! + place * 4).copyMemory(
                from: mapping.base + start * 4, byteCount: count * 4)
        }
    }

    /// Stores pixels from word `start` on where they differ; the range of those that did, from 0, or nil.
    public func write(_ pixels: [UInt32], at start: Int) -> Range<Int>? {
        check(start, pixels.count)
        // SAFETY: the range was checked; only this process writes.
        let words = unsafe mapping.base.assumingMemoryBound(to: UInt32.self) + start
        return unsafe pixels.withUnsafeBufferPointer { pixels in
            var first = 0, last = pixels.count
            while first < last, unsafe words[first] == pixels[first] { first += 1 }
            guard first < last else { return nil }
            while unsafe words[last - 1] == pixels[last - 1] { last -= 1 }
            for place in first..<last { unsafe words[place] = pixels[place] }
            return first..<last
        }
    }
}

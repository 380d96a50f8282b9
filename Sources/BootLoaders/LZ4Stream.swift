internal import ByteLayout
internal import CLZ4

/// LZ4's legacy frame, as `lz4 -l` writes it and Linux packs its kernels (lz4_Frame_format.md, "Legacy
/// frame"): a magic number, then blocks that know nothing of each other. Each but the last has 8 MiB of
/// content.
/// ```
/// frame: 02 21 4C 18 | { le32 size | block }...
/// ```
/// The input is hostile: no more than the announced size comes out, a block at a time.
struct LZ4Stream {
    private static let magic: UInt32 = 0x184C_2102
    static let blockContent = 8 << 20

    private let file: [UInt8]
    /// What is left of the frame.
    private var rest: Range<Int>
    /// Bytes of content that are still to come.
    private(set) var left: Int
    private var buffer: [UInt8]
    private var filled = 0

    /// The frame in `range` of `file`, with `size` bytes of content; nil where there is none.
    init?(_ file: [UInt8], in range: Range<Int>, size: Int) {
        guard range.lowerBound >= 0, range.upperBound <= file.count, range.count > 4, size > 0,
            file.load(littleEndian: UInt32.self, at: range.lowerBound) == Self.magic
        else { return nil }
        self.file = file
        rest = range.dropFirst(4)
        left = size
        buffer = [UInt8](repeating: 0, count: min(size, Self.blockContent))
    }

    /// The content of the last block. The next one takes its memory, if nobody holds it any more.
    var piece: ArraySlice<UInt8> { buffer[..<filled] }

    /// Unpacks the next block. False: there is none, or it is malformed or has not as much content as it
    /// should, and something is `left`.
    mutating func next() -> Bool {
        guard left > 0, rest.count >= 4,
            let size = file.load(littleEndian: UInt32.self, at: rest.lowerBound), Int(size) <= rest.count - 4
        else { return false }
        let block = rest.dropFirst(4).prefix(Int(size)), wanted = min(left, buffer.count)
        // SAFETY: `block` lies inside the file and `wanted` is at most the buffer's count; the library keeps
        // to both.
        let count = unsafe file.withUnsafeBytes { source in
            unsafe buffer.withUnsafeMutableBytes { target in
                unsafe ospite_lz4_unpack(
                    source.baseAddress.map { unsafe $0 + block.lowerBound }, block.count, target.baseAddress,
                    wanted)
            }
        }
        guard count == wanted else { return false }
        rest = block.upperBound..<rest.upperBound
        left -= wanted
        filled = wanted
        return true
    }
}

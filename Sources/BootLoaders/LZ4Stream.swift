internal import ByteLayout

/// LZ4's legacy frame, as `lz4 -l` writes it and Linux packs its kernels (lz4_Frame_format.md, "Legacy
/// frame"; lz4_Block_format.md): a magic number, then blocks of up to 8 MiB of content that know nothing of
/// each other.
/// ```
/// frame: 02 21 4C 18 | { le32 size | block }...
/// block: { token | literal length... | literals | le16 distance | match length... }... | token | literals
/// ```
/// The input is hostile: nothing is read or written outside of it and of the announced size.
enum LZ4Stream {
    private static let magic: UInt32 = 0x184C_2102
    private static let blockContent = 8 << 20
    private static let shortestMatch = 4

    static func isPresent(in file: [UInt8], at offset: Int) -> Bool {
        file.load(littleEndian: UInt32.self, at: offset) == magic
    }

    /// The content of the frame in `range` of `file`, which must be `size` bytes; nil when it is not.
    static func content(of file: [UInt8], in range: Range<Int>, size: Int) -> [UInt8]? {
        guard file.indices.contains(range.lowerBound), range.upperBound <= file.count, size > 0 else {
            return nil
        }
        // SAFETY: the buffers are the arrays' own, and `Decoder` checks every access against their ends. What
        // it has filled has content; only that becomes the array.
        let output = unsafe [UInt8](unsafeUninitializedCapacity: size) { room, filled in
            unsafe file.withUnsafeBytes { source in
                let target = unsafe UnsafeMutableRawBufferPointer(
                    rebasing: UnsafeMutableRawBufferPointer(room)[..<size])
                var decoder = unsafe Decoder(source: source, target: target)
                unsafe filled = decoder.decodeFrame(range) ?? 0
            }
        }
        return output.count == size ? output : nil
    }

    @unsafe private struct Decoder {
        let source: UnsafeRawBufferPointer
        let target: UnsafeMutableRawBufferPointer
        var position = 0
        /// Bytes of `target` that have content.
        var filled = 0

        init(source: UnsafeRawBufferPointer, target: UnsafeMutableRawBufferPointer) {
            unsafe self.source = source
            unsafe self.target = target
        }

        /// How many bytes came out, or nil for a malformed frame.
        mutating func decodeFrame(_ range: Range<Int>) -> Int? {
            unsafe position = range.lowerBound + 4
            while unsafe position + 4 <= range.upperBound, unsafe filled < target.count {
                let size = unsafe source.loadUnaligned(fromByteOffset: position, as: UInt32.self)
                unsafe position += 4
                guard unsafe Int(size) <= range.upperBound - position else { return nil }
                guard unsafe decodeBlock(end: position + Int(size)) else { return nil }
            }
            return unsafe filled
        }

        private mutating func decodeBlock(end: Int) -> Bool {
            let start = unsafe filled
            let limit = unsafe min(target.count, start + LZ4Stream.blockContent)
            while unsafe position < end {
                let token = unsafe source[position]
                unsafe position += 1
                guard let literals = unsafe length(token >> 4, end: end),
                    unsafe literals <= end - position, unsafe literals <= limit - filled
                else { return false }
                unsafe copyLiterals(literals)
                // The last sequence is literals only.
                if unsafe position == end { return true }
                guard unsafe position + 2 <= end else { return false }
                let distance = unsafe Int(source.loadUnaligned(fromByteOffset: position, as: UInt16.self))
                unsafe position += 2
                guard let more = unsafe length(token & 15, end: end), distance > 0,
                    unsafe distance <= filled - start,
                    unsafe more + LZ4Stream.shortestMatch <= limit - filled
                else { return false }
                unsafe copyMatch(distance, more + LZ4Stream.shortestMatch)
            }
            return true
        }

        /// A length of four bits, or 15 and the bytes that follow, up to one that is not 255.
        private mutating func length(_ bits: UInt8, end: Int) -> Int? {
            guard bits == 15 else { return Int(bits) }
            var sum = 15
            while unsafe position < end {
                let byte = unsafe source[position]
                unsafe position += 1
                sum += Int(byte)
                if byte != 255 { return sum }
            }
            return nil
        }

        // SAFETY: the caller has checked `count` against both ends; the short ways check what they copy more.
        private mutating func copyLiterals(_ count: Int) {
            if count <= 16, unsafe position + 16 <= source.count, unsafe filled + 16 <= target.count {
                let bytes = unsafe source.loadUnaligned(fromByteOffset: position, as: SIMD16<UInt8>.self)
                unsafe target.storeBytes(of: bytes, toByteOffset: filled, as: SIMD16<UInt8>.self)
            } else if count > 0, let from = unsafe source.baseAddress, let to = unsafe target.baseAddress {
                unsafe (to + filled).copyMemory(from: from + position, byteCount: count)
            }
            unsafe position += count
            unsafe filled += count
        }

        // SAFETY: as above; `distance` bytes before `filled` belong to the block. A match may overlap itself.
        private mutating func copyMatch(_ distance: Int, _ count: Int) {
            let end = unsafe filled + count
            guard unsafe end + 32 <= target.count else {
                for at in unsafe filled..<end { unsafe target[at] = target[at - distance] }
                unsafe filled = end
                return
            }
            // What repeats after a few bytes repeats after some times as many, too.
            let period = distance >= 16 ? distance : distance * ((15 + distance) / distance)
            var at = unsafe filled
            let first = min(end, at + period - distance)
            while at < first {
                unsafe target[at] = target[at - distance]
                at += 1
            }
            // Two at once: the length of most needs no guess then.
            while at < end {
                for part in 0..<2 {
                    let from = at - period + part * 16
                    let bytes = unsafe target.loadUnaligned(fromByteOffset: from, as: SIMD16<UInt8>.self)
                    unsafe target.storeBytes(of: bytes, toByteOffset: at + part * 16, as: SIMD16<UInt8>.self)
                }
                at += 32
            }
            unsafe filled = end
        }
    }
}

/// Reads code bytes from front to back and refuses to go past their end.
struct CodeCursor {
    let bytes: InstructionBytes
    private(set) var offset = 0

    init(_ bytes: InstructionBytes) { self.bytes = bytes }

    /// Too long when the missing byte would be the sixteenth, otherwise truncated.
    @inline(__always)
    private func require(_ size: Int) throws(DecodeFailure) {
        if offset &+ size > Int(bytes.count) {
            throw offset &+ size > InstructionBytes.longest ? .tooLong : .truncated
        }
    }

    @inline(__always)
    mutating func next() throws(DecodeFailure) -> UInt8 {
        try require(1)
        let byte = bytes[offset]
        offset &+= 1
        return byte
    }

    /// The next byte, left where it is.
    @inline(__always)
    func peek() throws(DecodeFailure) -> UInt8 {
        try require(1)
        return bytes[offset]
    }

    /// `size` bytes (1, 2, 4 or 8), zero-extended.
    @inline(__always)
    mutating func unsigned(_ size: Int) throws(DecodeFailure) -> UInt64 {
        try require(size)
        let word = bytes.word(at: offset)
        offset &+= size
        return size == 8 ? word : word & ((1 &<< UInt64(truncatingIfNeeded: size &* 8)) &- 1)
    }

    /// `size` bytes (1, 2, 4 or 8), sign-extended.
    @inline(__always)
    mutating func signed(_ size: Int) throws(DecodeFailure) -> Int64 {
        try require(size)
        let unused = Int64(truncatingIfNeeded: 64 &- size &* 8)
        let word = Int64(truncatingIfNeeded: bytes.word(at: offset))
        offset &+= size
        return (word &<< unused) &>> unused
    }
}

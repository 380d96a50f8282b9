/// Reads code bytes from front to back and refuses to go past their end.
struct CodeCursor {
    let bytes: InstructionBytes
    private(set) var offset: Int

    init(_ bytes: InstructionBytes, at offset: Int = 0) {
        self.bytes = bytes
        self.offset = offset
    }

    @inline(__always)
    private func require(_ size: Int) throws(DecodeFailure) {
        if offset &+ size > bytes.count { throw bytes.lack(offset &+ size) }
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
}

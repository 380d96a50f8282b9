/// Fields of wire and table formats, read and written at explicit offsets. Pure.

extension Array where Element == UInt8 {
    /// Appends the bytes of `value`, least significant first.
    @inlinable
    public mutating func append<T: FixedWidthInteger>(littleEndian value: T) {
        for byte in 0..<(T.bitWidth / 8) {
            append(UInt8(truncatingIfNeeded: value >> T(truncatingIfNeeded: byte * 8)))
        }
    }

    /// Appends the bytes of `value`, most significant first.
    @inlinable
    public mutating func append<T: FixedWidthInteger>(bigEndian value: T) {
        append(littleEndian: value.byteSwapped)
    }

    /// Stores `value` least significant byte first at `offset`; traps when it does not fit (a bug of ours).
    @inlinable
    public mutating func store<T: FixedWidthInteger>(littleEndian value: T, at offset: Int) {
        precondition(offset >= 0 && offset + T.bitWidth / 8 <= count, "field outside the buffer")
        for byte in 0..<(T.bitWidth / 8) {
            self[offset + byte] = UInt8(truncatingIfNeeded: value >> T(truncatingIfNeeded: byte * 8))
        }
    }

    /// The little-endian field at `offset`, or nil when the buffer is too short: the length of untrusted
    /// input is never assumed.
    @inlinable
    public func load<T: FixedWidthInteger>(littleEndian: T.Type, at offset: Int) -> T? {
        let size = T.bitWidth / 8
        guard offset >= 0, offset <= count - size else { return nil }
        var value: T = 0
        for byte in (0..<size).reversed() {
            value = (T.bitWidth == 8 ? 0 : value << 8) | T(truncatingIfNeeded: self[offset + byte])
        }
        return value
    }
}

/// The byte that makes the sum of all bytes zero modulo 256 (ACPI 6.5 §5.2.6, SMBIOS 3.6 §5.2.1).
@inlinable
public func checksumComplement(_ bytes: some Sequence<UInt8>) -> UInt8 {
    0 &- bytes.reduce(UInt8(0)) { $0 &+ $1 }
}

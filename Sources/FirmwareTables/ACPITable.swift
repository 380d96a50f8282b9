internal import ByteLayout

/// One system description table: the 36-byte header (ACPI 6.5 §5.2.6) and a body.
///
/// Its pointers to other tables are filled in when it is placed, so that the same table can also be handed to
/// a firmware that places it itself.
struct ACPITable {
    /// A field that will hold another table's address.
    struct Pointer: Equatable {
        /// From the start of this table.
        var offset: Int
        /// 4 or 8 bytes.
        var size: Int
        /// Signature of the table pointed to.
        var target: String
    }

    static let headerSize = 36
    private static let lengthOffset = 4
    static let checksumOffset = 9
    private static let manufacturer = "OSPITE", model = "OSPITEPC", compiler = "OSPT"

    let signature: String
    private(set) var bytes: [UInt8]
    private(set) var pointers: [Pointer] = []
    /// FACS has neither the common header nor a checksum.
    let hasHeader: Bool
    let alignment: Int

    init(_ signature: String, revision: UInt8, body: [UInt8]) {
        precondition(signature.utf8.count == 4, "a signature has four characters")
        self.signature = signature
        hasHeader = true
        alignment = 8
        bytes = Array(signature.utf8) + [0, 0, 0, 0, revision, 0]
        bytes += Array(Self.manufacturer.utf8) + Array(Self.model.utf8)
        bytes.append(littleEndian: UInt32(1))
        bytes += Array(Self.compiler.utf8)
        bytes.append(littleEndian: UInt32(1))
        bytes += body
        bytes.store(littleEndian: UInt32(bytes.count), at: Self.lengthOffset)
        fixChecksum()
    }

    /// A structure without the common header.
    init(_ signature: String, bare bytes: [UInt8], alignment: Int) {
        self.signature = signature
        hasHeader = false
        self.bytes = bytes
        self.alignment = alignment
    }

    mutating func point(at target: String, from offset: Int, size: Int) {
        precondition(size == 4 || size == 8, "addresses have 4 or 8 bytes")
        pointers.append(Pointer(offset: offset, size: size, target: target))
    }

    /// Fills the pointers in.
    mutating func resolve(_ addressOf: (String) -> UInt64) {
        for pointer in pointers {
            let address = addressOf(pointer.target)
            if pointer.size == 4 {
                bytes.store(littleEndian: UInt32(truncatingIfNeeded: address), at: pointer.offset)
            } else {
                bytes.store(littleEndian: address, at: pointer.offset)
            }
        }
        if hasHeader { fixChecksum() }
    }

    private mutating func fixChecksum() {
        bytes[Self.checksumOffset] = 0
        bytes[Self.checksumOffset] = checksumComplement(bytes)
    }
}

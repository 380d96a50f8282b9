internal import ByteLayout

/// One SMBIOS structure under construction (SMBIOS 3.6 §6.1): type, length, handle, fields, then the strings.
struct SMBIOSStructure {
    private var fields: [UInt8]
    private var strings: [UInt8] = []
    private var stringCount: UInt8 = 0

    init(type: UInt8, handle: UInt16) {
        fields = [type, 0]
        fields.append(littleEndian: handle)
    }

    mutating func add(_ bytes: UInt8...) { fields += bytes }
    mutating func add(bytes: [UInt8]) { fields += bytes }
    mutating func add(word value: UInt16) { fields.append(littleEndian: value) }
    mutating func add(dword value: UInt32) { fields.append(littleEndian: value) }
    mutating func add(qword value: UInt64) { fields.append(littleEndian: value) }

    /// A string's number; 0 for an empty one. NULs are dropped, and long strings cut at 64 bytes (§6.1.3).
    mutating func add(string: String) {
        let text = string.utf8.filter { $0 != 0 }.prefix(64)
        guard !text.isEmpty else { return fields.append(0) }
        stringCount += 1
        strings += text + [0]
        fields.append(stringCount)
    }

    /// Two NULs end the structure, also when it has no strings.
    var bytes: [UInt8] {
        var bytes = fields
        bytes[1] = UInt8(fields.count)
        return bytes + (strings.isEmpty ? [0] : strings) + [0]
    }
}

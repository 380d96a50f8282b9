internal import ByteLayout

/// What a controller and its namespace say of themselves, NVM Express 1.4 §5.15.2.
struct NVMeIdentity: Sendable {
    static let pageSize = 4096
    /// A power of two of pages that a command moves at most: 512 KiB.
    static let largestTransferExponent: UInt8 = 7
    static let largestTransfer = pageSize << Int(largestTransferExponent)

    let serial: String

    /// Made from the serial number, so that it stays with the disk: a UUID of version 8 (RFC 9562 §5.8).
    var uuid: [UInt8] {
        // FNV-1a.
        let hash = serial.utf8.reduce(0xCBF2_9CE4_8422_2325 as UInt64) {
            ($0 ^ UInt64($1)) &* 0x100_0000_01B3
        }
        var bytes = Array("ospite".utf8) + [0x80, 0x01]
        bytes.append(bigEndian: hash & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000)
        return bytes
    }

    private var uuidText: String {
        let digits = Array("0123456789abcdef")
        var text = ""
        for (index, byte) in uuid.enumerated() {
            if [4, 6, 8, 10].contains(index) { text.append("-") }
            text.append(digits[Int(byte >> 4)])
            text.append(digits[Int(byte & 15)])
        }
        return text
    }

    private static func put(_ text: String, _ range: Range<Int>, _ bytes: inout [UInt8], padding: UInt8) {
        let text = Array(text.utf8)
        for (index, place) in range.enumerated() { bytes[place] = index < text.count ? text[index] : padding }
    }

    /// Figure 247: identify controller.
    func controller() -> [UInt8] {
        var data = [UInt8](repeating: 0, count: Self.pageSize)
        data.store(littleEndian: UInt16(0x1B36), at: 0)
        data.store(littleEndian: UInt16(0x1AF4), at: 2)
        Self.put(serial, 4..<24, &data, padding: 0x20)
        Self.put("Ospite NVMe disk", 24..<64, &data, padding: 0x20)
        Self.put("1", 64..<72, &data, padding: 0x20)
        // Best burst of 2^6 commands; largest transfer.
        data[72] = 6
        data[77] = Self.largestTransferExponent
        data.store(littleEndian: NVMeCapability.version, at: 80)
        // An I/O controller.
        data[111] = 1
        // Commands that may be aborted, and event requests, each less one.
        data[258] = 3
        data[259] = UInt8(NVMeEvents.mostRequests - 1)
        // One firmware slot that cannot be written; the effects log and long log pages; error entries.
        data[260] = 0x03
        data[261] = 0x06
        data[262] = UInt8(NVMeController.errorEntries - 1)
        // Kelvin.
        data.store(littleEndian: UInt16(NVMeFeature.temperatureLimit), at: 266)
        data.store(littleEndian: UInt16(373), at: 268)
        data[512] = UInt8(NVMeConfiguration.submissionEntry) * 0x11
        data[513] = UInt8(NVMeConfiguration.completionEntry) * 0x11
        data.store(littleEndian: UInt16(NVMeController.mostCommands), at: 514)
        // One namespace; dataset management and write zeroes.
        data.store(littleEndian: UInt32(1), at: 516)
        data.store(littleEndian: UInt16(0x000C), at: 520)
        // A write cache; a flush of all namespaces is one.
        data[525] = 0x07
        Self.put("nqn.2014-08.org.nvmexpress:uuid:" + uuidText, 768..<1024, &data, padding: 0)
        // Power state 0: 25 W in hundredths.
        data.store(littleEndian: UInt16(2500), at: 2048)
        return data
    }

    /// Figure 245: identify namespace. `sectors` are of 512 bytes.
    func namespace(sectors: UInt64, isReadOnly: Bool) -> [UInt8] {
        var data = [UInt8](repeating: 0, count: Self.pageSize)
        for place in [0, 8, 16] { data.store(littleEndian: sectors, at: place) }
        // Deallocated blocks may read as anything; write zeroes may deallocate.
        data[33] = 0x08
        data[99] = isReadOnly ? 1 : 0
        for (index, byte) in uuid.enumerated() { data[104 + index] = byte }
        // Format 0: 2^9 bytes without metadata.
        data[130] = 9
        return data
    }

    /// The list of what identifies a namespace, §5.15.2.4: its UUID.
    func descriptors() -> [UInt8] {
        let list = [3, 16, 0, 0] + uuid
        return list + [UInt8](repeating: 0, count: Self.pageSize - list.count)
    }

    /// §5.15.2.3: identifiers above `first`.
    func activeNamespaces(after first: UInt32) -> [UInt8] {
        var data = [UInt8](repeating: 0, count: Self.pageSize)
        if first == 0 { data[0] = 1 }
        return data
    }
}

import ByteLayout

/// What the firmware configuration device holds: numbered items, and named files with a directory.
public struct FirmwareConfigContents: Sendable {
    enum Item: Sendable {
        case bytes([UInt8])
        /// Asked for whenever the item is selected; cut or filled with zeroes to the size.
        case computed(size: Int, @Sendable () -> [UInt8])

        var size: Int {
            switch self {
            case .bytes(let bytes): bytes.count
            case .computed(let size, _): size
            }
        }
        var bytes: [UInt8] {
            switch self {
            case .bytes(let bytes): return bytes
            case .computed(let size, let make):
                let made = make().prefix(size)
                return made + [UInt8](repeating: 0, count: size - made.count)
            }
        }
    }
    private var items: [UInt16: Item] = [:]
    private var files: [String: Item] = [:]

    /// With the signature, and the features that the device has: the data port and DMA.
    public init() {
        add(FirmwareConfigKey.signature, bytes: Array("QEMU".utf8))
        add(FirmwareConfigKey.features, number: UInt32(3))
    }

    public mutating func add(_ key: UInt16, bytes: [UInt8]) {
        precondition(!(0x19..<0x8000).contains(key), "the numbers from 19h on belong to the directory")
        items[key] = .bytes(bytes)
    }

    /// Numbers of the old items are little-endian.
    public mutating func add(_ key: UInt16, number: some FixedWidthInteger) {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: number)
        add(key, bytes: bytes)
    }

    public mutating func add(file name: String, bytes: [UInt8]) { insert(name, .bytes(bytes)) }

    /// A file that holds a little-endian number, as firmware reads its settings.
    public mutating func add(file name: String, number: some FixedWidthInteger) {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: number)
        add(file: name, bytes: bytes)
    }

    /// A file whose bytes depend on what the firmware has done before it reads them.
    public mutating func add(file name: String, size: Int, computed: @escaping @Sendable () -> [UInt8]) {
        precondition(size >= 0, "a file has no negative size")
        insert(name, .computed(size: size, computed))
    }

    private mutating func insert(_ name: String, _ item: Item) {
        precondition(name.utf8.count < FirmwareConfigDirectory.nameSize, "the name is too long")
        precondition(!name.utf8.contains(0) && files[name] == nil, "the name is no name, or is taken")
        files[name] = item
    }

    /// Every item by its selector: the files in the order of their names, and the directory.
    var bySelector: [UInt16: Item] {
        var all = items
        var directory: [UInt8] = []
        directory.append(bigEndian: UInt32(files.count))
        for (place, file) in files.sorted(by: { $0.key < $1.key }).enumerated() {
            let selector = FirmwareConfigKey.firstFile + UInt16(place)
            directory.append(bigEndian: UInt32(file.value.size))
            directory.append(bigEndian: selector)
            directory.append(bigEndian: UInt16(0))
            let name = Array(file.key.utf8)
            directory += name + [UInt8](repeating: 0, count: FirmwareConfigDirectory.nameSize - name.count)
            all[selector] = file.value
        }
        all[FirmwareConfigKey.directory] = .bytes(directory)
        return all
    }
}

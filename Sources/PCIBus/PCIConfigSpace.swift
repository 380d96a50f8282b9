internal import ByteLayout

/// Who a function says it is (PCI 3.0 §6.2.1, §6.2.4).
public struct PCIIdentity: Sendable, Equatable {
    public var vendor: UInt16
    public var device: UInt16
    /// Class, subclass and programming interface in bits 23..16, 15..8 and 7..0.
    public var classCode: UInt32
    public var revision: UInt8
    public var subsystemVendor: UInt16
    public var subsystem: UInt16

    public init(
        vendor: UInt16, device: UInt16, classCode: UInt32, revision: UInt8 = 0, subsystemVendor: UInt16 = 0,
        subsystem: UInt16 = 0
    ) {
        self.vendor = vendor
        self.device = device
        self.classCode = classCode
        self.revision = revision
        self.subsystemVendor = subsystemVendor
        self.subsystem = subsystem
    }
}

/// What a base address register decodes (PCI 3.0 §6.2.5).
public struct BARLayout: Sendable, Equatable {
    public enum Kind: Sendable, Equatable { case io, memory32, memory64 }
    public let kind: Kind
    /// Bytes, a power of two: 4 to 256 for I/O, 16 to 2 GiB for 32-bit memory, up to 2^62 for 64-bit memory.
    public let size: UInt64
    public let isPrefetchable: Bool

    public init(_ kind: Kind, size: UInt64, prefetchable: Bool = false) {
        precondition(size.nonzeroBitCount == 1, "a BAR's size is a power of two")
        switch kind {
        case .io: precondition((4...256).contains(size), "an I/O BAR has 4 to 256 ports")
        case .memory32: precondition((16...0x8000_0000).contains(size), "a 32-bit BAR has 16 B to 2 GiB")
        case .memory64: precondition((16...1 << 62).contains(size), "a 64-bit BAR has 16 B to 4 EiB")
        }
        self.kind = kind
        self.size = size
        self.isPrefetchable = prefetchable && kind != .io
    }

    /// The read-only low bits of the register.
    var typeBits: UInt32 {
        switch kind {
        case .io: 1
        case .memory32: isPrefetchable ? 8 : 0
        case .memory64: isPrefetchable ? 0xC : 4
        }
    }
}

/// A capability as it stands in configuration space after the identifier and the next pointer.
public struct PCICapability: Sendable {
    public var id: UInt8
    /// Bytes from offset 2 of the capability on.
    public var body: [UInt8]
    /// Which bits of `body` the guest may write; as long as `body` or empty for none.
    public var writable: [UInt8]

    public init(id: UInt8, body: [UInt8], writable: [UInt8] = []) {
        precondition(writable.isEmpty || writable.count == body.count, "the write mask covers the body")
        self.id = id
        self.body = body
        self.writable = writable
    }
}

/// A register of one kind of device, beyond the header: its place, its bytes after reset, and which of their
/// bits the guest may write.
public struct PCIRegister: Sendable {
    public var offset: Int
    public var value: [UInt8]
    public var writable: [UInt8]

    public init(offset: Int, value: [UInt8], writable: [UInt8]) {
        precondition(offset >= 4 && offset + value.count <= 256, "outside configuration space")
        precondition(value.count == writable.count, "the write mask covers the register")
        self.offset = offset
        self.value = value
        self.writable = writable
    }

    /// A register of as many bytes as the numbers have, little-endian.
    public init<T: FixedWidthInteger>(_ offset: Int, _ value: T, writable: T) {
        var bytes: [UInt8] = [], mask: [UInt8] = []
        bytes.append(littleEndian: value)
        mask.append(littleEndian: writable)
        self.init(offset: offset, value: bytes, writable: mask)
    }
}

/// The 256 bytes of configuration space of one function: values, and a mask of the bits that the guest may
/// write. BAR size probing needs no code of its own: the low bits of a BAR are simply not writable.
///
/// Confinement: a value; its owner locks.
struct PCIConfigSpace {
    static let size = 256
    static let expressSize = 4096
    static let barCount = 6

    private(set) var bytes = [UInt8](repeating: 0, count: size)
    private var writable = [UInt8](repeating: 0, count: size)
    private var atReset: [UInt8] = []
    let bars: [BARLayout?]
    /// Offset of each capability, in the order given.
    private(set) var capabilityOffsets: [Int] = []
    /// Where the next capability goes, and the pointer that will lead to it.
    private var free = ConfigRegister.firstCapability, lastLink = ConfigRegister.capabilities
    /// A function of PCI Express: its configuration space goes on to 4 KiB, where ours has nothing.
    private var isExpress = false
    /// Bytes that the expansion ROM decodes, a power of two; 0 when there is none.
    let romSize: UInt64

    /// `bars` has up to six entries; the one after a 64-bit BAR must be nil. `interruptPin` is 0 for none,
    /// 1 to 4 for INTA to INTD.
    init(
        identity: PCIIdentity, bars: [BARLayout?], interruptPin: UInt8, capabilities: [PCICapability],
        registers: [PCIRegister] = [], romSize: UInt64 = 0
    ) {
        precondition(bars.count <= Self.barCount && interruptPin <= 4, "six BARs, four pins")
        precondition(romSize.nonzeroBitCount <= 1, "a ROM decodes a power of two")
        self.bars = bars + [BARLayout?](repeating: nil, count: Self.barCount - bars.count)
        self.romSize = romSize
        bytes.store(littleEndian: identity.vendor, at: ConfigRegister.vendor)
        bytes.store(littleEndian: identity.device, at: ConfigRegister.device)
        bytes[ConfigRegister.revision] = identity.revision
        for byte in 0..<3 {
            bytes[ConfigRegister.classCode + byte] = UInt8(
                truncatingIfNeeded: identity.classCode >> (8 * UInt32(byte)))
        }
        bytes.store(littleEndian: identity.subsystemVendor, at: ConfigRegister.subsystemVendor)
        bytes.store(littleEndian: identity.subsystem, at: ConfigRegister.subsystem)
        bytes[ConfigRegister.interruptPin] = interruptPin
        writable.store(littleEndian: ConfigCommand.writable, at: ConfigRegister.command)
        writable[ConfigRegister.cacheLineSize] = 0xFF
        writable[ConfigRegister.latencyTimer] = 0xFF
        writable[ConfigRegister.interruptLine] = 0xFF
        layOutBARs()
        for capability in capabilities { append(capability) }
        for register in registers {
            for (index, byte) in register.value.enumerated() {
                bytes[register.offset + index] = byte
                writable[register.offset + index] = register.writable[index]
            }
        }
        if romSize > 0 {
            let mask = ~(UInt32(truncatingIfNeeded: romSize) &- 1) | ConfigExpansionROM.enable
            writable.store(littleEndian: mask, at: ConfigRegister.expansionROM)
        }
        atReset = bytes
    }

    private mutating func layOutBARs() {
        for (index, bar) in bars.enumerated() {
            guard let bar else { continue }
            let offset = ConfigRegister.firstBAR + 4 * index
            let mask = ~(bar.size - 1)
            bytes.store(littleEndian: bar.typeBits, at: offset)
            writable.store(littleEndian: UInt32(truncatingIfNeeded: mask), at: offset)
            if bar.kind == .memory64 {
                precondition(index + 1 < Self.barCount && bars[index + 1] == nil, "a 64-bit BAR takes two")
                writable.store(littleEndian: UInt32(truncatingIfNeeded: mask >> 32), at: offset + 4)
            }
        }
    }

    /// One more capability, behind the others; before the guest runs.
    mutating func append(_ capability: PCICapability) {
        let end = free + 2 + capability.body.count
        precondition(end <= Self.size, "capabilities exceed configuration space")
        bytes[lastLink] = UInt8(free)
        bytes[free] = capability.id
        for (index, byte) in capability.body.enumerated() {
            bytes[free + 2 + index] = byte
            if !capability.writable.isEmpty { writable[free + 2 + index] = capability.writable[index] }
        }
        bytes[ConfigRegister.status] |= ConfigStatus.capabilityList
        capabilityOffsets.append(free)
        lastLink = free + 1
        free = (end + 3) & ~3
        if capability.id == PCICapabilityID.express { isExpress = true }
        atReset = bytes
    }

    /// Up to four bytes at any offset; bytes outside the space read as ones, those of an empty extended space
    /// as zeros.
    func read(offset: Int, count: Int) -> UInt32 {
        var value: UInt32 = 0
        for byte in 0..<min(max(count, 0), 4) {
            let at = offset &+ byte
            let isEmpty = isExpress && (Self.size..<Self.expressSize).contains(at)
            let field: UInt8 = bytes.indices.contains(at) ? bytes[at] : isEmpty ? 0 : 0xFF
            value |= UInt32(field) << UInt32(8 * byte)
        }
        return value
    }

    /// Up to four bytes at any offset; read-only bits and bytes outside the space keep their value.
    mutating func write(offset: Int, count: Int, value: UInt32) {
        for byte in 0..<min(max(count, 0), 4) {
            let at = offset &+ byte
            guard bytes.indices.contains(at) else { continue }
            let field = UInt8(truncatingIfNeeded: value >> UInt32(8 * byte))
            bytes[at] = (bytes[at] & ~writable[at]) | (field & writable[at])
        }
    }

    /// Overwrites bytes whatever their mask: for registers that the function itself computes.
    mutating func replace(_ offset: Int, with field: [UInt8]) {
        for (index, byte) in field.enumerated() where bytes.indices.contains(offset + index) {
            bytes[offset + index] = byte
        }
    }

    mutating func reset() {
        let header = bytes[ConfigRegister.headerType]
        bytes = atReset
        bytes[ConfigRegister.headerType] = header
    }

    /// Takes the writable bits of a saved image. False when it is not an image of this function.
    mutating func restore(_ saved: [UInt8]) -> Bool {
        // Who it is, and its subsystem, where a bridge has a writable register.
        guard saved.count == Self.size,
            (Array(0..<4) + Array(0x2C..<0x30)).allSatisfy({ (saved[$0] ^ bytes[$0]) & ~writable[$0] == 0 })
        else { return false }
        for at in bytes.indices { bytes[at] = (bytes[at] & ~writable[at]) | (saved[at] & writable[at]) }
        return true
    }

    mutating func setMultifunction() { bytes[ConfigRegister.headerType] |= 0x80 }

    var command: UInt16 { UInt16(truncatingIfNeeded: read(offset: ConfigRegister.command, count: 2)) }

    /// Where BAR `index` decodes now, or nil when it does not exist or its space is switched off.
    func decodedAddress(of index: Int) -> UInt64? {
        guard let bar = bars[index] else { return nil }
        let enable = bar.kind == .io ? ConfigCommand.ioSpace : ConfigCommand.memorySpace
        guard command & enable != 0 else { return nil }
        return address(of: index)
    }

    /// Where the expansion ROM decodes now, or nil when there is none or it is switched off.
    var decodedROMAddress: UInt64? {
        let register = read(offset: ConfigRegister.expansionROM, count: 4)
        guard romSize > 0, command & ConfigCommand.memorySpace != 0,
            register & ConfigExpansionROM.enable != 0
        else { return nil }
        return UInt64(register) & ~(romSize - 1)
    }

    /// The address programmed into BAR `index`.
    func address(of index: Int) -> UInt64 {
        guard let bar = bars[index] else { return 0 }
        let offset = ConfigRegister.firstBAR + 4 * index
        let low = UInt64(read(offset: offset, count: 4)) & ~(bar.size - 1) & 0xFFFF_FFFF
        guard bar.kind == .memory64 else { return low }
        return low | UInt64(read(offset: offset + 4, count: 4)) << 32
    }

    mutating func setAddress(of index: Int, to address: UInt64) {
        let offset = ConfigRegister.firstBAR + 4 * index
        write(offset: offset, count: 4, value: UInt32(truncatingIfNeeded: address))
        if bars[index]?.kind == .memory64 {
            write(offset: offset + 4, count: 4, value: UInt32(truncatingIfNeeded: address >> 32))
        }
    }
}

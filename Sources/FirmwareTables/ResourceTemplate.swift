internal import ByteLayout

/// A list of resource descriptors (ACPI 6.5 §6.4), as _CRS returns it.
struct ResourceTemplate {
    private var bytes: [UInt8] = []

    /// The buffer with its end tag; checksum 0 means that there is none.
    var aml: AML { .buffer(bytes + [0x79, 0x00]) }

    /// §6.4.2.5: fixed ports, 16 bits decoded.
    mutating func ports(_ first: UInt16, count: UInt8) {
        bytes += [0x47, 0x01]
        bytes.append(littleEndian: first)
        bytes.append(littleEndian: first)
        bytes += [0x01, count]
    }

    /// §6.4.2.1: one edge-triggered, active-high ISA interrupt.
    mutating func interrupt(_ number: UInt8) {
        bytes.append(0x22)
        bytes.append(littleEndian: UInt16(1) << UInt16(number & 15))
    }

    /// §6.4.3.6: one level-triggered, active-high interrupt of any number, used by one device.
    mutating func levelInterrupt(_ number: UInt32) {
        bytes += [0x89, 6, 0, 0x01, 1]
        bytes.append(littleEndian: number)
    }

    /// §6.4.3.4.
    mutating func fixedMemory(_ start: UInt32, size: UInt32) {
        bytes += [0x86, 9, 0, 1]
        bytes.append(littleEndian: start)
        bytes.append(littleEndian: size)
    }

    /// §6.4.3.5.3: the buses behind a host bridge.
    mutating func producedBuses(_ first: UInt16, _ last: UInt16) {
        addressSpace(tag: 0x88, type: 2, specific: 0, first, last)
    }

    /// Ports that a host bridge passes on.
    mutating func producedPorts(_ first: UInt16, _ last: UInt16) {
        // Type-specific 3: ISA and non-ISA ranges.
        addressSpace(tag: 0x88, type: 1, specific: 3, first, last)
    }

    /// Read-write memory that a host bridge passes on, below 4 GiB.
    mutating func producedMemory(_ first: UInt32, _ last: UInt32, cacheable: Bool = false) {
        addressSpace(tag: 0x87, type: 0, specific: cacheable ? 3 : 1, first, last)
    }

    /// The same with 64-bit addresses; prefetchable.
    mutating func producedMemory64(_ first: UInt64, _ last: UInt64) {
        addressSpace(tag: 0x8A, type: 0, specific: 7, first, last)
    }

    /// Word, DWord and QWord address space descriptors share one layout; minimum and maximum are fixed.
    private mutating func addressSpace<T: FixedWidthInteger>(
        tag: UInt8, type: UInt8, specific: UInt8, _ first: T, _ last: T
    ) {
        bytes.append(tag)
        bytes.append(littleEndian: UInt16(3 + 5 * T.bitWidth / 8))
        bytes += [type, 0x0C, specific]
        let length = last &- first &+ 1
        for field in [0, first, last, 0, length] as [T] { bytes.append(littleEndian: field) }
    }
}

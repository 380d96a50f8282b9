internal import GuestMemory
internal import Synchronization

/// The device's side of one enabled split virtqueue (VIRTIO 1.3 §2.7), with indirect descriptors and event
/// indices. Every field of guest memory is read once into a local and checked there.
///
/// Confinement: a value; `VirtioQueue` locks it.
struct SplitQueue {
    /// Ring areas as the driver programmed them.
    struct Areas: Equatable {
        var descriptors: UInt64
        var available: UInt64
        var used: UInt64
        var size: UInt16
    }

    /// A chain in an indirect table may be longer than the queue with some drivers; no driver needs more
    /// than this.
    static let longestIndirectChain = 1024
    /// Entries of an indirect table that an index can reach, and then some: a larger table is a lie.
    static let largestIndirectTable: UInt32 = 32_768
    /// The largest queue, §2.7.
    static let largestQueue: UInt16 = 32_768

    private let memory: GuestMemory
    let areas: Areas
    private let usesEventIndex: Bool
    private let allowsIndirect: Bool
    /// Position in the available ring of the next chain to take.
    private(set) var nextAvailable: UInt16
    /// Position in the used ring of the next element; elements before `publishedUsed` are visible.
    private(set) var nextUsed: UInt16
    private var publishedUsed: UInt16
    /// The used index at the last decision about an interrupt; nil forces the next one (after a restore).
    private var signalledUsed: UInt16?
    /// Chains taken and not given back; never above the queue size, so a driver that makes the same heads
    /// available again and again cannot make the device hold ever more requests.
    private(set) var inFlight = 0

    /// - Throws: `QueueFault` when the areas cannot be rings: size, alignment (§2.7) or memory.
    init(
        _ memory: GuestMemory, _ areas: Areas, eventIndex: Bool, indirect: Bool, nextAvailable: UInt16 = 0,
        nextUsed: UInt16 = 0, isNew: Bool = true
    ) throws(QueueFault) {
        guard areas.size > 0, areas.size <= Self.largestQueue, areas.size & (areas.size - 1) == 0 else {
            throw .badSize(areas.size)
        }
        let size = areas.size
        try Self.check(
            memory, areas.descriptors, RingLayout.descriptorBytes(size: size), align: 16, write: false)
        try Self.check(memory, areas.available, RingLayout.availableBytes(size: size), align: 2, write: false)
        try Self.check(memory, areas.used, RingLayout.usedBytes(size: size), align: 4, write: true)
        self.memory = memory
        self.areas = areas
        usesEventIndex = eventIndex
        allowsIndirect = indirect
        self.nextAvailable = nextAvailable
        self.nextUsed = nextUsed
        publishedUsed = nextUsed
        signalledUsed = isNew ? nextUsed : nil
    }

    private static func check(
        _ memory: GuestMemory, _ address: UInt64, _ count: UInt64, align: UInt64, write: Bool
    ) throws(QueueFault) {
        guard address % align == 0, holds(memory, address, count, write: write) else {
            throw .badArea(address)
        }
    }

    /// Whether `count` bytes at `address` are in one region that allows the access.
    private static func holds(_ memory: GuestMemory, _ address: UInt64, _ count: UInt64, write: Bool) -> Bool
    {
        guard let region = memory.region(at: address) else { return false }
        return count <= region.end - address && (!write || region.kind == .ram)
    }

    // MARK: Available ring

    /// Chains that the driver has made available and the device has not taken.
    private func pending() throws(QueueFault) -> UInt16 {
        let index = try guarded { () throws(GuestMemoryFault) in
            try memory.loadAcquire(at: GuestAddress(areas.available) + RingLayout.index)
        }
        let count = index &- nextAvailable
        guard count <= areas.size else { throw .availableJump(index) }
        return count
    }

    var isFull: Bool { inFlight >= Int(areas.size) }

    /// Takes the next chain; nil when there is none, or when as many as the queue holds are in flight.
    mutating func pop() throws(QueueFault) -> DescriptorChain? {
        guard !isFull, try pending() > 0 else { return nil }
        let slot = UInt64(nextAvailable & (areas.size - 1))
        let head = try guarded { () throws(GuestMemoryFault) in
            try memory.load(UInt16.self, at: GuestAddress(areas.available) + (RingLayout.ring + 2 * slot))
        }
        let chain = try walk(from: head)
        nextAvailable &+= 1
        inFlight += 1
        return chain
    }

    /// Puts the chain that was taken last back, untouched (a device that held it stops).
    mutating func unpop() {
        retire()
        nextAvailable &-= 1
    }

    /// The device is done with a chain, whatever becomes of its used element.
    mutating func retire() {
        precondition(inFlight > 0, "a chain was given back twice")
        inFlight -= 1
    }

    private func walk(from head: UInt16) throws(QueueFault) -> DescriptorChain {
        var chain = DescriptorChain(head: head)
        var table = GuestAddress(areas.descriptors)
        var entries = UInt32(areas.size)
        var limit = Int(areas.size)
        var isIndirect = false
        var index = head
        while limit > 0 {
            limit -= 1
            guard UInt32(index) < entries else { throw .badIndex(index) }
            let at = table + UInt64(index) * QueueDescriptor.size
            let descriptor = try guarded { () throws(GuestMemoryFault) in
                try memory.load(QueueDescriptor.self, at: at)
            }
            if descriptor.flags & QueueDescriptor.indirect != 0 {
                guard allowsIndirect, !isIndirect, descriptor.flags & QueueDescriptor.next == 0 else {
                    throw .badIndirect
                }
                entries = try indirectEntries(descriptor)
                table = GuestAddress(descriptor.address)
                limit = Self.longestIndirectChain
                isIndirect = true
                index = 0
                continue
            }
            try append(descriptor, to: &chain)
            guard descriptor.flags & QueueDescriptor.next != 0 else { return chain }
            index = descriptor.next
        }
        throw .endlessChain
    }

    /// How many descriptors the table behind `descriptor` has (§2.7.5.3).
    private func indirectEntries(_ descriptor: QueueDescriptor) throws(QueueFault) -> UInt32 {
        let entries = descriptor.length / UInt32(QueueDescriptor.size)
        guard descriptor.length % UInt32(QueueDescriptor.size) == 0, entries > 0,
            entries <= Self.largestIndirectTable,
            Self.holds(memory, descriptor.address, UInt64(descriptor.length), write: false)
        else { throw .badIndirect }
        return entries
    }

    private func append(_ descriptor: QueueDescriptor, to chain: inout DescriptorChain) throws(QueueFault) {
        let isWritable = descriptor.flags & QueueDescriptor.write != 0
        guard isWritable || chain.writable.isEmpty else { throw .readableAfterWritable }
        guard descriptor.length > 0 else { return }
        let count = UInt64(descriptor.length)
        guard Self.holds(memory, descriptor.address, count, write: isWritable) else {
            let isMemory = isWritable && Self.holds(memory, descriptor.address, count, write: false)
            throw .memory(
                isMemory
                    ? .readOnly(address: descriptor.address)
                    : .notMemory(address: descriptor.address, count: count))
        }
        let buffer = GuestBuffer(address: GuestAddress(descriptor.address), count: Int(count))
        if isWritable {
            chain.writable.append(buffer)
            chain.writableCount += buffer.count
        } else {
            chain.readable.append(buffer)
            chain.readableCount += buffer.count
        }
        guard chain.readableCount + chain.writableCount <= Int(UInt32.max) else { throw .tooLong }
    }

    // MARK: Used ring

    /// Queues a used element; visible to the driver after `publish`. `retire` is the caller's.
    mutating func push(head: UInt16, written: UInt32) throws(QueueFault) {
        let slot = UInt64(nextUsed & (areas.size - 1))
        let at = GuestAddress(areas.used) + (RingLayout.ring + UsedElement.size * slot)
        let element = UsedElement(id: UInt32(head), length: written)
        try guarded { () throws(GuestMemoryFault) in try memory.store(element, at: at) }
        nextUsed &+= 1
    }

    /// Makes all pushed elements visible at once. Returns whether the driver wants an interrupt for them.
    mutating func publish() throws(QueueFault) -> Bool {
        guard publishedUsed != nextUsed else { return false }
        try guarded { () throws(GuestMemoryFault) in
            try memory.storeRelease(nextUsed, at: GuestAddress(areas.used) + RingLayout.index)
        }
        publishedUsed = nextUsed
        // The index must be visible before the driver's wish is read: it writes the wish, then reads the
        // index.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        let available = GuestAddress(areas.available)
        guard usesEventIndex else {
            let flags = try guarded { () throws(GuestMemoryFault) in
                try memory.loadAcquire(at: available + RingLayout.flags)
            }
            signalledUsed = nextUsed
            return flags & RingLayout.noInterrupt == 0
        }
        let event = try guarded { () throws(GuestMemoryFault) in
            try memory.loadAcquire(at: available + RingLayout.usedEvent(size: areas.size))
        }
        defer { signalledUsed = nextUsed }
        guard let signalledUsed else { return true }
        // §2.7.7.2: did the index pass the event since the last decision?
        return nextUsed &- event &- 1 < nextUsed &- signalledUsed
    }

    // MARK: Notification suppression

    /// Asks the driver not to notify while the device is looking anyway. With event indices an old
    /// `avail_event` does that by itself.
    mutating func suppressNotifications() throws(QueueFault) {
        guard !usesEventIndex else { return }
        try guarded { () throws(GuestMemoryFault) in
            try memory.storeRelease(RingLayout.noNotify, at: GuestAddress(areas.used) + RingLayout.flags)
        }
    }

    /// Asks for a notification of the next chain. Returns whether chains arrived before the driver could see
    /// the wish: then nobody will notify, and the device must look again.
    mutating func enableNotifications() throws(QueueFault) -> Bool {
        let used = GuestAddress(areas.used)
        let (value, offset) =
            usesEventIndex
            ? (nextAvailable, RingLayout.availableEvent(size: areas.size)) : (0, RingLayout.flags)
        try guarded { () throws(GuestMemoryFault) in try memory.storeRelease(value, at: used + offset) }
        // The wish must be visible before the index is read: the driver writes the index, then reads the
        // wish.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        return try pending() > 0
    }

    private func guarded<T>(_ access: () throws(GuestMemoryFault) -> T) throws(QueueFault) -> T {
        do { return try access() } catch { throw .memory(error) }
    }
}

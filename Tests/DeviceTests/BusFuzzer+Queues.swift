import DeviceModel
import GuestMemory
@testable import PCIBus
@testable import Virtio
@testable import VirtioDevices

/// Virtqueues that a driver would not build, and some that it would.
extension BusFuzzer {
    mutating func fuzzQueues() {
        let number = random.below(target.functions.count)
        let device = target.functions[number]
        place = "device \(number)"
        switch random.below(40) {
        case 0, 1: start(device, number)
        case 2: writeRegister(device)
        case 3: readRegister(device)
        case 4: reset(device)
        case 5: programMSIX(device)
        case 6:
            let queue = queue(device, number)
            spoilRing(queue)
        case 7 where device.deviceID == 16: useDisplay(device, number)
        default:
            // One fault stops a device until its driver starts over.
            if !device.link.signals.isRunning, !random.chance(4) { start(device, number) }
            let queue = queue(device, number)
            for _ in 0..<(1 + random.below(random.chance(8) ? 40 : 3)) { addChain(queue, device) }
            let before = usedIndex(queue)
            place = "dev\(number) queue\(queue.index)"
            queue.kick()
            kicks += 1
            if usedIndex(queue) != before { answeredKicks += 1 }
        }
    }

    private func usedIndex(_ queue: FuzzedQueue) -> UInt16? {
        try? memory.load(UInt16.self, at: GuestAddress(queue.used + RingLayout.index))
    }

    private mutating func queue(_ device: FuzzedFunction, _ number: Int) -> FuzzedQueue {
        FuzzedQueue(device, function: number, queue: random.below(device.link.queues.count))
    }

    // MARK: Registers

    private mutating func start(_ device: FuzzedFunction, _ number: Int) {
        let first = FuzzedQueue(device, function: number, queue: 0)
        switch random.below(8) {
        case 0: first.negotiate(random.next())
        case 1: first.negotiate(0)
        case 2, 3: first.negotiate(device.features & random.next() | VirtioFeature.version1)
        default: first.negotiate(device.features)
        }
        for index in device.link.queues.indices {
            let queue = FuzzedQueue(device, function: number, queue: index)
            if !random.chance(4) {
                try? memory.zero(GuestAddress(queue.base), count: Int(FuzzedQueue.areaSize))
            }
            let isHostile = random.chance(10)
            queue.program(
                size: isHostile ? UInt16(truncatingIfNeeded: random.value()) : 1 << UInt16(random.below(9)),
                descriptors: isHostile && random.chance(2) ? hostileAddress() : queue.base,
                available: isHostile && random.chance(2) ? hostileAddress() : queue.available,
                used: isHostile && random.chance(2) ? hostileAddress() : queue.used)
        }
        if random.chance(4) { programMSIX(device) }
        first.write(CommonRegister.deviceStatus, .byte, 15)
    }

    private mutating func writeRegister(_ device: FuzzedFunction) {
        switch device.transport {
        case .pci(let function):
            let offset = random.chance(4) ? random.below(0x4000) : random.below(CommonRegister.size)
            function.write(
                region: VirtioBAR.registers, offset: UInt64(offset), width: width(), value: hostileValue())
        case .memory(let memory):
            let offset = random.chance(4) ? random.below(0x1000) : random.below(0x40) * 4
            let width = random.chance(4) ? width() : .dword
            memory.write(region: 0, offset: UInt64(offset), width: width, value: hostileValue())
        }
    }

    private mutating func readRegister(_ device: FuzzedFunction) {
        switch device.transport {
        case .pci(let function):
            let region = random.chance(4) ? VirtioBAR.msix : VirtioBAR.registers
            _ = function.read(region: region, offset: UInt64(random.below(0x4000)), width: width())
        case .memory(let memory):
            let width = random.chance(4) ? width() : .dword
            _ = memory.read(region: 0, offset: UInt64(random.below(0x100) * 4), width: width)
        }
    }

    /// Of the device or of a queue, whatever is in flight.
    private mutating func reset(_ device: FuzzedFunction) {
        let queue = FuzzedQueue(device, function: 0, queue: random.below(device.link.queues.count))
        if random.chance(2) {
            queue.write(CommonRegister.deviceStatus, .byte, 0)
        } else {
            queue.write(CommonRegister.queueSelect, .word, UInt64(queue.index))
            queue.write(CommonRegister.queueReset, .word, 1)
        }
    }

    private mutating func programMSIX(_ device: FuzzedFunction) {
        guard let function = device.function else { return }
        let vectors = device.link.queues.count + 1
        for vector in 0..<vectors where random.chance(2) {
            let offset = UInt64(vector * 16 + 4 * random.below(4))
            let address = random.chance(4) ? hostileValue() : 0xFEE0_0000
            function.write(region: VirtioBAR.msix, offset: offset, width: width(), value: address)
        }
        // The capability stands behind those of the device.
        for offset in stride(from: 0x40, to: 0xF0, by: 4)
        where function.readConfig(offset: offset, count: 1) == 0x11 {
            function.writeConfig(
                offset: offset + 2, count: 2, value: UInt32(random.below(4)) << 14)
        }
    }

    // MARK: Rings

    private mutating func spoilRing(_ queue: FuzzedQueue) {
        let area = [queue.base, queue.available, queue.used][random.below(3)]
        let offset = UInt64(random.below(random.chance(2) ? 8 : 0x1200))
        let value = UInt16(truncatingIfNeeded: random.value())
        try? memory.store(value, at: GuestAddress(area + offset))
    }

    private mutating func addChain(_ queue: FuzzedQueue, _ device: FuzzedFunction) {
        let size = queue.size
        // Three chains of four are right, or nothing would be in flight when the fourth comes.
        let isRight = !random.chance(4)
        let head = UInt16(random.below(Int(size)))
        let count = isRight ? min(3, Int(size)) : 1 + random.below(random.chance(20) ? 200 : 5)
        let header = bufferAddress()
        let isDisplay = device.deviceID == 16
        if isDisplay { writeDisplayCommand(at: header) } else { writeRequest(at: header) }
        var table: UInt64?
        if random.chance(6), isRight ? queue.usesIndirect : true {
            table = indirectTable(queue, head, entries: count, isRight: isRight)
        }
        let writableFrom = random.below(count + 1)
        for position in 0..<count {
            let slot = table == nil ? UInt16((Int(head) + position) % Int(size)) : UInt16(position)
            let isLast = position == count - 1
            var flags: UInt16 = isLast ? 0 : QueueDescriptor.next
            // A header that the device reads, then data, then a byte that it writes: what disks expect.
            if position >= max(writableFrom, 1) || (isLast && (isRight || !random.chance(4))) {
                flags |= QueueDescriptor.write
            }
            var address = position == 0 ? header : bufferAddress()
            var length = UInt32(
                position == 0
                    ? (isDisplay ? 256 : 16) : isLast ? (isDisplay ? 24 : 1) : 512 * (1 + random.below(8)))
            if !isRight, random.chance(12) { address = hostileAddress() }
            if !isRight, random.chance(12) { length = UInt32(truncatingIfNeeded: random.value()) }
            if !isRight, random.chance(25) { flags ^= UInt16(random.below(8)) }
            var next = table == nil ? UInt16((Int(slot) + 1) % Int(size)) : slot &+ 1
            if !isRight, random.chance(25) { next = UInt16(truncatingIfNeeded: random.value()) }
            queue.describe(
                slot, address, length, flags: flags, next: next, table: table, memory: memory)
        }
        let step = !isRight && random.chance(15) ? UInt16(truncatingIfNeeded: random.value()) : 1
        let shownHead = !isRight && random.chance(15) ? UInt16(truncatingIfNeeded: random.value()) : head
        queue.makeAvailable(shownHead, step: step, memory: memory)
    }

    /// Points the descriptor `head` at a table of `entries`, or nearly so.
    private mutating func indirectTable(
        _ queue: FuzzedQueue, _ head: UInt16, entries: Int, isRight: Bool
    ) -> UInt64 {
        let table = FuzzedQueue.data.lowerBound + UInt64(random.below(64)) * 0x4000
        var length = UInt32(entries * 16)
        if !isRight, random.chance(8) { length = UInt32(truncatingIfNeeded: random.value()) }
        let flags = QueueDescriptor.indirect | (!isRight && random.chance(12) ? UInt16(random.below(4)) : 0)
        queue.describe(
            head, !isRight && random.chance(12) ? hostileAddress() : table, length, flags: flags, next: 0,
            memory: memory)
        return table
    }

    /// Mostly where nothing else is; now and then in a ring, which the device then overwrites.
    private mutating func bufferAddress() -> UInt64 {
        if random.chance(40) { return FuzzedQueue.firstArea + UInt64(random.below(0x14_0000)) }
        return FuzzedQueue.data.lowerBound + UInt64(random.below(0x7E_0000))
    }

    /// What disks, balloons and consoles find at the beginning of a request.
    private mutating func writeRequest(at address: UInt64) {
        let types: [UInt32] = [0, 1, 4, 8, 11, 13, 2, 3, 5, 9, 99, .max]
        let sector = random.chance(4) ? random.value() : UInt64(random.below(2100))
        let at = GuestAddress(address)
        if random.chance(2) {
            try? memory.store(types[random.below(types.count)], at: at)
            try? memory.store(UInt32(0), at: at + 4)
            try? memory.store(sector, at: at + 8)
            // The segment of a discard.
            try? memory.store(sector, at: at + 16)
            try? memory.store(UInt32(truncatingIfNeeded: random.value()), at: at + 24)
            try? memory.store(UInt32(random.below(3)), at: at + 28)
        } else {
            // Page numbers, and tags of statistics among them.
            for word in 0..<UInt64(8) {
                let page =
                    random.chance(4)
                    ? UInt32(truncatingIfNeeded: random.value()) : UInt32(random.below(0x2100))
                try? memory.store(page, at: at + 4 * word)
            }
        }
    }

    /// A driver of a display that knows how to send commands, and now and then which ones.
    private mutating func useDisplay(_ device: FuzzedFunction, _ number: Int) {
        let queue = FuzzedQueue(device, function: number, queue: random.chance(8) ? 1 : 0)
        queue.start(device.features, memory: memory)
        for _ in 0..<40 {
            let request = bufferAddress()
            writeDisplayCommand(at: request)
            queue.describe(0, request, 256, flags: QueueDescriptor.next, next: 1, memory: memory)
            queue.describe(1, bufferAddress(), 24, flags: QueueDescriptor.write, next: 0, memory: memory)
            queue.makeAvailable(0, memory: memory)
            queue.kick()
        }
    }

    /// A command of a display on one of a few resources, with numbers that are small or anything.
    private mutating func writeDisplayCommand(at address: UInt64) {
        func number(_ limit: Int) -> UInt32 {
            random.chance(10) ? UInt32(truncatingIfNeeded: random.value()) : UInt32(random.below(limit))
        }
        let types = Array(0x100...0x10B as ClosedRange<UInt32>) + [0x300, 0x301, 0x301, 0]
        let type = types[random.below(types.count)], resource = number(3)
        // Fences, too.
        var words = [type, number(2), number(9), 0, 0, 0]
        let size = random.chance(4) ? number(300) : 64
        let rectangle = [number(20), number(20), number(44), number(44)]
        switch type {
        case 0x101: words += [resource, [1, 2, 3, 4, 67, 68, 121, 134][random.below(8)], size, size]
        case 0x103: words += rectangle + [number(2), resource]
        case 0x104: words += rectangle + [resource, 0]
        case 0x105: words += rectangle + [number(5000), 0, resource, 0]
        case 0x106:
            words += [resource, number(14)]
            for _ in 0..<14 {
                let place = random.chance(20) ? hostileAddress() : bufferAddress()
                words += [UInt32(truncatingIfNeeded: place), UInt32(place >> 32), number(100_000), 0]
            }
        case 0x300, 0x301:
            words += [number(2), number(400), number(400), 0, resource, number(64), number(64), 0]
        default: words += [resource, 0]
        }
        for (index, word) in words.enumerated() {
            try? memory.store(word, at: GuestAddress(address + 4 * UInt64(index)))
        }
    }
}

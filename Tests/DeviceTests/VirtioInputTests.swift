import DeviceModel
import GuestMemory
import Testing

@testable import Virtio
@testable import VirtioDevices

@Suite struct VirtioInputTests {
    private static let buffers: UInt64 = 0x20_0000
    /// A device whose driver has done nothing yet.
    private func device(_ kind: VirtioInput.Kind) throws -> (VirtioPCI<VirtioInput>, VirtioTestDriver) {
        let bench = try PCIBench()
        let device = VirtioPCI(VirtioInput(bench.context, kind))
        bench.bridge.insert(device.function, slot: 4)
        try bench.assignResources()
        return (device, VirtioTestDriver(bench, slot: 4))
    }

    /// Gives the device `count` buffers of one event each.
    private func offer(_ queue: VirtioTestQueue, _ count: Int, size: UInt32 = 8) {
        for _ in 0..<count { queue.add([.into(Self.buffers + UInt64(queue.availableIndex % 16) * 8, size)]) }
        queue.kick()
    }

    /// The events that arrived since the last call: type, code, value.
    private func arrived(_ queue: VirtioTestQueue) -> [[Int]] {
        var events: [[Int]] = []
        while true {
            let place = Self.buffers + UInt64(queue.usedIndex % 16) * 8
            guard let used = queue.poll() else { return events }
            guard used.length == 8 else { continue }
            events.append([
                Int(queue.load(UInt16.self, place)), Int(queue.load(UInt16.self, place + 2)),
                Int(Int32(bitPattern: queue.load(UInt32.self, place + 4))),
            ])
        }
    }

    private func ask(_ driver: VirtioTestDriver, _ select: UInt8, _ subselect: UInt8) -> [UInt8] {
        driver.writeConfig(0, .byte, UInt64(select))
        driver.writeConfig(1, .byte, UInt64(subselect))
        let size = driver.readConfig(2, .byte)
        return (0..<size).map { UInt8(driver.readConfig(8 + $0, .byte)) }
    }

    @Test func `a tablet says what it has`() throws {
        let (_, driver) = try device(.tablet)
        #expect(String(decoding: ask(driver, 1, 0), as: UTF8.self) == "Ospite Virtio Tablet")
        #expect(ask(driver, 3, 0) == [6, 0, 0xF4, 0x1A, 3, 0, 1, 0])
        // EV_ABS: X and Y, from 0 to 32767.
        #expect(ask(driver, 0x11, 3) == [3])
        for axis in [0, 1] as [UInt8] {
            #expect(ask(driver, 0x12, axis) == [0, 0, 0, 0, 0xFF, 0x7F] + [UInt8](repeating: 0, count: 14))
        }
        // BTN_LEFT is 110h: bit 0 of byte 34; the wheel is bit 8.
        #expect(ask(driver, 0x11, 1) == [UInt8](repeating: 0, count: 34) + [0x1F])
        #expect(ask(driver, 0x11, 2) == [0, 1])
        for (select, subselect) in [(0x11, 0x11), (0x12, 2), (0x10, 0), (1, 1), (0, 0), (0xFF, 0xFF)]
            as [(UInt8, UInt8)]
        {
            #expect(ask(driver, select, subselect).isEmpty)
        }
    }

    @Test func `a keyboard has the keys of a PC, and no axes`() throws {
        let (_, driver) = try device(.keyboard)
        let keys = ask(driver, 0x11, 1)
        func has(_ code: Int) -> Bool { keys[code / 8] >> UInt8(code % 8) & 1 == 1 }
        // Escape, space, F12, Enter of the keypad, both right modifiers, arrows, the menu key.
        for code in [1, 57, 88, 96, 97, 100, 103, 105, 106, 108, 127] { #expect(has(code)) }
        #expect(!has(0) && !has(84) && ask(driver, 0x12, 0).isEmpty && ask(driver, 0x11, 3).isEmpty)
        #expect(ask(driver, 0x11, 0x11) == [7] && ask(driver, 0x11, 0x14) == [3])
    }

    @Test func `a position is two axes and a report`() throws {
        let (device, driver) = try device(.tablet)
        let queue = driver.start()[0]
        offer(queue, 16)
        device.device.point(x: 200, y: .max, buttons: 0, wheel: 0)
        #expect(arrived(queue) == [[3, 0, 100], [3, 1, 32_767], [0, 0, 0]])
        device.device.point(x: 200, y: .max, buttons: 0, wheel: 0)
        #expect(arrived(queue) == [], "nothing has changed")
        device.device.point(x: 200, y: 14, buttons: 0b101, wheel: -2)
        #expect(arrived(queue) == [[3, 1, 7], [1, 0x110, 1], [1, 0x112, 1], [2, 8, 2], [0, 0, 0]])
    }

    @Test func `a guest that sleeps misses steps in between, not where they end`() throws {
        let (device, driver) = try device(.tablet)
        let queue = driver.start()[0]
        for step in 1...10_000 as ClosedRange<UInt16> {
            device.device.point(x: 2 * step, y: 2 * step, buttons: UInt8(step & 1), wheel: 0)
        }
        #expect(device.device.save().events.count <= VirtioInput.mostEvents + 16)
        var events: [[Int]] = []
        for _ in 0..<60 {
            offer(queue, 16)
            events += arrived(queue)
        }
        #expect(events.last { $0[0] == 3 && $0[1] == 0 } == [3, 0, 10_000])
        #expect(events.last { $0[0] == 1 } == [1, 0x110, 0] && events.last == [0, 0, 0])
    }

    @Test func `keys go down and up once each, also those that a full queue has to leave out`() throws {
        let (device, driver) = try device(.keyboard)
        let queue = driver.start()[0]
        offer(queue, 4)
        for _ in 0..<3 { device.device.key(code: 0x1E, isDown: true) }
        device.device.key(code: 0x9D, isDown: true)
        #expect(arrived(queue) == [[1, 30, 1], [0, 0, 0], [1, 97, 1], [0, 0, 0]])
        for _ in 0..<10_000 { for isDown in [true, false] { device.device.key(code: 0x10, isDown: isDown) } }
        device.device.key(code: 0x1E, isDown: false)
        device.device.key(code: 0x9D, isDown: false)
        var down: Set<Int> = [30, 97]
        for _ in 0..<80 {
            offer(queue, 16)
            for event in arrived(queue) where event[0] == 1 {
                if event[2] == 1 { down.insert(event[1]) } else { down.remove(event[1]) }
            }
        }
        #expect(down.isEmpty)
        device.device.key(code: 0xFF, isDown: true)
        device.device.point(x: 1, y: 1, buttons: 1, wheel: 1)
        offer(queue, 4)
        #expect(arrived(queue).isEmpty, "there is no such key, and no pointer")
    }

    @Test func `buffers that are too small are given back, and cost no event`() throws {
        let (device, driver) = try device(.keyboard)
        let queue = driver.start()[0]
        offer(queue, 3, size: 4)
        offer(queue, 2)
        device.device.key(code: 0x39, isDown: true)
        #expect(arrived(queue) == [[1, 57, 1], [0, 0, 0]])
    }

    @Test func `lights of a keyboard are taken`() throws {
        let (_, driver) = try device(.keyboard)
        let status = driver.start()[1]
        status.store(UInt64(0x11 | 1 << 16 | 1 << 32), Self.buffers)
        #expect(status.send([.out(Self.buffers, 8)])?.length == 0)
    }

    @Test func `nothing is kept for a driver that does not listen`() throws {
        let (device, driver) = try device(.tablet)
        device.device.point(x: 5, y: 5, buttons: 1, wheel: 0)
        #expect(!device.device.isListening && device.device.save().events.isEmpty)
        let queue = driver.start()[0]
        #expect(device.device.isListening)
        offer(queue, 4)
        #expect(arrived(queue).isEmpty)
        driver.deviceStatus = 0
        #expect(!device.device.isListening)
    }

    @Test func `events on their way and keys that are down outlive a restore`() throws {
        let (device, driver) = try device(.keyboard)
        _ = driver.start()
        device.device.key(code: 0x1E, isDown: true)
        let saved = device.save()
        let (other, otherDriver) = try self.device(.keyboard)
        // The same queues in this machine's memory.
        let queue = otherDriver.start()[0]
        try other.restore(saved)
        other.resume()
        other.device.key(code: 0x1E, isDown: false)
        offer(queue, 8)
        #expect(arrived(queue) == [[1, 30, 1], [0, 0, 0], [1, 30, 0], [0, 0, 0]])
        let (tablet, _) = try self.device(.tablet)
        #expect(throws: RestoreError.self) { try tablet.restore(saved) }
    }
}

import DeviceModel
import LinuxHost
import Synchronization
import Testing

@testable import DisplayDevices

/// Memory of devices that processors reach without asking: who may, and how the device hears of stores.
@Suite struct DirectMemoryTests {
    /// A processor that gives up when the test says so.
    private final class Processor: DirectMemoryUser {
        private let state = Mutex((asked: UInt64(0), done: UInt64(0)))
        var asked: UInt64 { state.withLock { $0.asked } }
        func giveUpDirectMemory(_ number: UInt64) { state.withLock { $0.asked = number } }
        func hasGivenUpDirectMemory(_ number: UInt64) -> Bool { state.withLock { $0.done >= number } }
        func heed() { state.withLock { $0.done = $0.asked } }
    }

    /// A device whose region 0 is memory, and whose region 1 is not.
    private final class Frame: MemoryMappedDevice {
        static let kind = "frame"
        struct Saved: Codable, Sendable, Equatable {}
        let memory: VideoMemory
        init(_ memory: VideoMemory) { self.memory = memory }
        func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 { 0 }
        func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {}
        func directMemory(region: Int) -> (any DirectMemory)? { region == 0 ? memory : nil }
        func reset() {}
        func save() -> Saved { Saved() }
        func restore(_ saved: Saved) {}
    }

    private let memory: VideoMemory
    private let processor = Processor()
    private let bus = MMIOBus()

    init() throws {
        memory = try VideoMemory(size: 1 << 16)
        bus.directAccess.add(processor)
    }

    private func changes() -> [Int] {
        var pages = [Bool](repeating: false, count: memory.pageCount)
        let isChanged = memory.takeChanges(into: &pages)
        let numbers = pages.indices.filter { pages[$0] }
        #expect(isChanged == !numbers.isEmpty)
        return numbers
    }

    @Test func `a page is direct as long as all of it is the device's`() {
        let frame = Frame(memory)
        #expect(bus.directPage(at: 0x10_0000, storing: false) == 0)
        let handle = bus.map(frame, at: 0x10_0000, size: 1 << 16)
        #expect(bus.directPage(at: 0x10_3000, storing: false) == memory.hostPage(3))
        #expect(bus.directPage(at: 0x11_0000, storing: false) == 0)
        #expect(bus.directPage(at: 0xF_F000, storing: false) == 0)
        // Another device over a part of a page, and one over a part of it that is direct elsewhere.
        let over = bus.map(frame, region: 1, at: 0x10_3F00, size: 0x10)
        #expect(bus.directPage(at: 0x10_3000, storing: false) == 0)
        #expect(bus.directPage(at: 0x10_4000, storing: false) == memory.hostPage(4))
        let asked = processor.asked
        bus.unmap(over)
        #expect(processor.asked > asked, "a processor may remember what was there")
        let shifted = bus.map(frame, at: 0x10_5800, size: 0x1000)
        for page in [0x10_5000, 0x10_6000] as [UInt64] {
            #expect(bus.directPage(at: page, storing: false) == 0)
        }
        bus.unmap(shifted)
        // A region larger than the memory.
        bus.unmap(handle)
        bus.map(frame, at: 0x10_0000, size: 1 << 20)
        #expect(bus.directPage(at: 0x10_F000, storing: false) == memory.hostPage(15))
        #expect(bus.directPage(at: 0x11_0000, storing: false) == 0)
        #expect(changes().isEmpty, "nobody stored")
    }

    @Test func `a page counts as changed until the processors gave it up, and once more`() {
        bus.map(Frame(memory), at: 0, size: 1 << 16)
        processor.heed()
        #expect(bus.directPage(at: 0x2000, storing: true) != 0)
        let asked = processor.asked
        #expect(changes() == [2])
        #expect(processor.asked == asked + 1)
        #expect(changes() == [2] && changes() == [2])
        #expect(processor.asked == asked + 1, "once is enough")
        processor.heed()
        #expect(changes() == [2], "what was stored before it gave up")
        #expect(changes().isEmpty)
    }

    @Test func `stores in the meantime are seen`() {
        bus.map(Frame(memory), at: 0, size: 1 << 16)
        processor.heed()
        _ = bus.directPage(at: 0x2000, storing: true)
        #expect(changes() == [2])
        // By the device, while the page is still direct: that does not end.
        memory[0x2004] = 1
        memory[0x3000] = 1
        #expect(changes() == [2, 3] && changes() == [2])
        // It gave up, and has asked again since.
        processor.heed()
        _ = bus.directPage(at: 0x2000, storing: true)
        #expect(changes() == [2] && changes() == [2])
        processor.heed()
        #expect(changes() == [2] && changes().isEmpty)
        memory.clear()
        #expect(changes().count == memory.pageCount && changes().isEmpty)
    }

    @Test func `a processor that is gone holds nothing back`() {
        let access = DirectAccess()
        do {
            let other = Processor()
            access.add(other)
            #expect(!access.isSettled(access.revoke()))
        }
        #expect(access.isSettled(access.revoke()))
    }
}

import ByteLayout
import DeviceModel
import GuestMemory
import Synchronization
import Testing

@testable import Virtio
@testable import VirtioDevices

@Suite struct VirtioConsoleTests {
    static let data: UInt64 = 0x20_0000
    let sink = MemorySink()
    let bench: PCIBench
    let device: VirtioPCI<VirtioConsole>
    let driver: VirtioTestDriver
    let receive: VirtioTestQueue
    let transmit: VirtioTestQueue
    var console: VirtioConsole { device.device }

    init() throws {
        bench = try PCIBench()
        device = VirtioPCI(VirtioConsole(bench.context, sink: sink))
        bench.bridge.insert(device.function, slot: 4)
        try bench.assignResources()
        driver = VirtioTestDriver(bench, slot: 4)
        let queues = driver.start()
        receive = queues[0]
        transmit = queues[1]
    }

    private func place(_ text: String, at address: UInt64 = data) -> UInt32 {
        try! bench.memory.write(Array(text.utf8), at: GuestAddress(address))
        return UInt32(text.utf8.count)
    }

    @Test func `output reaches the sink in order`() {
        let length = place("hello, world")
        #expect(transmit.send([.out(Self.data, 5), .out(Self.data + 5, length - 5)])?.length == 0)
        #expect(sink.text == "hello, world")
    }

    @Test func `a full sink holds the queue back and loses nothing`() {
        sink.room = 3
        let length = place("abcdef")
        #expect(transmit.send([.out(Self.data, length)]) != nil)
        #expect(transmit.send([.out(Self.data, length)]) == nil)
        #expect(sink.text == "abc")
        sink.room = Int.max
        console.sinkIsReady()
        #expect(transmit.poll() != nil)
        #expect(sink.text == "abcdefabcdef")
    }

    @Test func `input waits for buffers and fills them`() {
        #expect(console.receive(Array("typed".utf8)) == 5)
        #expect(receive.poll() == nil)
        receive.add([.into(Self.data, 2)])
        receive.add([.into(Self.data + 16, 64)])
        receive.kick()
        #expect(receive.poll()?.length == 2)
        #expect(receive.poll()?.length == 3)
        #expect(receive.load(UInt16.self, Self.data) == 0x7974)
        receive.add([.into(Self.data, 64)])
        receive.kick()
        #expect(receive.poll() == nil)
        #expect(console.receive([0x21]) == 1)
        #expect(receive.poll()?.length == 1)
    }

    @Test func `input beyond the limit is not taken`() {
        let flood = [UInt8](repeating: 0x61, count: 100_000)
        #expect(console.receive(flood) == VirtioConsole.inputLimit)
        #expect(console.receive(flood) == 0)
        #expect(console.inputRoom == 0)
        receive.send([.into(Self.data, 1000)])
        #expect(console.inputRoom == 1000)
    }

    @Test func `the outside hears when there is room for input again`() {
        let heard = Mutex(0)
        let console = VirtioConsole(bench.context, sink: sink) { heard.withLock { $0 += 1 } }
        console.notify(queue: 1)
        #expect(heard.withLock { $0 } == 0)
        console.notify(queue: 0)
        #expect(heard.withLock { $0 } == 1)
    }

    @Test func `buffers that are of no use come back empty`() {
        #expect(console.receive([1]) == 1)
        #expect(receive.send([.out(Self.data, 8)])?.length == 0)
        #expect(receive.send([.into(Self.data, 0)])?.length == 0)
        #expect(receive.send([.into(Self.data, 8)])?.length == 1)
        #expect(transmit.send([.into(Self.data, 8)])?.length == 0)
        #expect(transmit.send([.out(Self.data, 0)])?.length == 0)
        #expect(sink.text.isEmpty)
    }

    @Test func `a giant transmit buffer is cut`() {
        transmit.send([.out(0, 8 << 20)])
        #expect(transmit.usedIndex == 1)
        #expect(sink.text.utf8.count <= VirtioConsole.outputLimit)
    }

    @Test func `emergency writes and sizes`() {
        bench.mmio.write(driver.device.address + 8, width: .dword, value: 0x41)
        bench.mmio.write(driver.device.address + 9, width: .dword, value: 0x42)
        #expect(sink.text == "A")
        _ = bench.interrupts.take()
        console.resize(columns: 132, rows: 50)
        #expect(driver.readConfig(0, .dword) == 50 << 16 | 132)
        #expect(bench.interrupts.take().map(\.data) == [0x40])
    }

    @Test func `buffered bytes survive a save, and too many are refused`() throws {
        sink.room = 1
        transmit.send([.out(Self.data, place("xy"))])
        _ = console.receive([1, 2, 3])
        let saved = console.save()
        #expect(saved.input == [1, 2, 3] && saved.output == Array("y".utf8))
        var bad = saved
        bad.input = [UInt8](repeating: 0, count: VirtioConsole.inputLimit + 1)
        #expect(throws: RestoreError.self) { try console.restore(bad) }
        try console.restore(saved)
        #expect(console.save() == saved)
    }
}

@Suite struct VirtioEntropyTests {
    @Test func `requests are filled, with a bound for each`() throws {
        let parts = try VirtioBench { bench in
            VirtioPCI(VirtioEntropy(bench.context) { [UInt8](repeating: 0xA5, count: $0) })
        }
        let queue = parts.driver.start()[0]
        #expect(queue.send([.into(0x20_0000, 10), .into(0x20_1000, 6)])?.length == 16)
        #expect(queue.load(UInt16.self, 0x20_1004) == 0xA5A5)
        #expect(queue.load(UInt16.self, 0x20_1006) == 0)
        #expect(queue.send([.into(0, 8 << 20)])?.length == UInt32(VirtioEntropy.largestAnswer))
        #expect(queue.send([.out(0x20_0000, 16)])?.length == 0)
        #expect(queue.send([.into(0x20_0000, 0)])?.length == 0)
        #expect(!parts.driver.needsReset)
    }
}

@Suite struct VirtioBalloonTests {
    static let list: UInt64 = 0x20_0000
    static let page: UInt64 = 0x40_0000
    let bench: PCIBench
    let device: VirtioPCI<VirtioBalloon>
    let driver: VirtioTestDriver
    let queues: [VirtioTestQueue]
    var balloon: VirtioBalloon { device.device }
    let ramPages = UInt32(PCIBench.ramSize / 4096 + 256)

    init() throws {
        bench = try PCIBench()
        device = VirtioPCI(VirtioBalloon(bench.context))
        bench.bridge.insert(device.function, slot: 4)
        try bench.assignResources()
        driver = VirtioTestDriver(bench, slot: 4)
        queues = driver.start()
    }

    private func inflate(_ pages: [UInt32], queue: Int = 0) -> UsedElement? {
        for (index, page) in pages.enumerated() { queues[0].store(page, Self.list + 4 * UInt64(index)) }
        return queues[queue].send([.out(Self.list, UInt32(4 * pages.count))])
    }

    private func fill() {
        for page in 0..<8 as Range<UInt64> { queues[0].store(UInt64(0x1122), Self.page + page * 4096) }
    }
    private var filled: [Bool] {
        (0..<8 as Range<UInt64>).map { queues[0].load(UInt64.self, Self.page + $0 * 4096) != 0 }
    }

    @Test func `inflated pages read as zero, others stay`() {
        fill()
        let first = UInt32(Self.page >> 12)
        #expect(inflate([first + 5, first + 4, first, first + 1, first + 1, first + 7]) != nil)
        #expect(filled == [false, false, true, true, false, false, true, false])
        #expect(inflate([first], queue: 1) != nil)
        queues[0].store(UInt64(1), Self.page)
        #expect(filled[0])
    }

    @Test func `page numbers outside RAM are counted and ignored`() {
        let romPage = UInt32(PCIBench.rom >> 12)
        let pages: [UInt32] = [
            UInt32(PCIBench.ramSize >> 12), romPage, 0xFFFF_FFFF, 0x8_0000, 0xE_0000, 0xF_EE00,
        ]
        #expect(inflate(pages) != nil)
        #expect(balloon.rejectedPages == 6)
        // A run that touches the last page of one region and the first beyond it.
        #expect(inflate([0xFFF, 0x1000, 0x10_0000, 0xF_FFFF]) != nil)
        #expect(balloon.rejectedPages == 8)
        #expect(!driver.needsReset)
    }

    @Test(arguments: [0, 1, 3, 5, 0x80_0000] as [UInt32])
    func `lists of any length are survived`(length: UInt32) {
        #expect(queues[0].send([.out(0x20_0000, length)]) != nil)
        #expect(queues[1].send([.out(0x20_0000, length)]) != nil)
        #expect(queues[0].send([.into(0x20_0000, length)]) != nil)
    }

    @Test func `reported ranges are released up to whole pages`() {
        fill()
        #expect(
            queues[3].send([.into(Self.page + 1, 4096 * 3), .into(Self.page + 6 * 4096, 4096)])?.length == 0)
        #expect(filled == [true, false, false, true, true, true, false, true])
        #expect(
            queues[3].send([.out(Self.page, 8), .into(Self.page, 4095), .into(Self.page, 0)])?.length == 0)
        #expect(filled[0])
        #expect(queues[3].send([.out(Self.page, 4096)])?.length == 0)
        #expect(filled[0])
    }

    @Test func `without statistics the reporting queue moves up`() {
        let queues = driver.start(without: 2)
        fill()
        #expect(queues[3].send([.into(Self.page, 4096)]) == nil)
        #expect(queues[2].send([.into(Self.page, 4096)]) != nil)
        #expect(!filled[0])
    }

    @Test func `the target is clamped and announced`() {
        _ = bench.interrupts.take()
        balloon.setTarget(pages: 100)
        #expect(driver.readConfig(0, .dword) == 100)
        #expect(bench.interrupts.take().map(\.data) == [0x40])
        balloon.setTarget(pages: .max)
        #expect(driver.readConfig(0, .dword) == UInt64(ramPages))
    }

    @Test func `the guest's word about its pages is clamped`() {
        bench.mmio.write(driver.device.address + 4, width: .dword, value: 0xFFFF_FFFF)
        #expect(balloon.actualPages == ramPages)
        bench.mmio.write(driver.device.address + 4, width: .dword, value: 77)
        bench.mmio.write(driver.device.address, width: .dword, value: 5)
        bench.mmio.write(driver.device.address + 6, width: .qword, value: 0)
        #expect(balloon.actualPages == 77)
        #expect(driver.readConfig(0, .dword) == 0)
    }

    @Test func `statistics are taken, unknown tags dropped, the buffer held until asked`() {
        var bytes: [UInt8] = []
        for (tag, value) in [(4, 1000), (5, 2000), (0x7777, 3), (16, 4), (0xFFFF, 5)] as [(UInt16, UInt64)] {
            bytes.append(littleEndian: tag)
            bytes.append(littleEndian: value)
        }
        try! bench.memory.write(bytes, at: GuestAddress(Self.list))
        #expect(queues[2].send([.out(Self.list, UInt32(bytes.count))]) == nil)
        #expect(balloon.statistics == [.freeMemory: 1000, .totalMemory: 2000])
        balloon.requestStatistics()
        #expect(queues[2].poll() != nil)
        balloon.requestStatistics()
        #expect(queues[2].poll() == nil)
        // Two buffers at once: one comes back. Odd lengths are survived.
        queues[2].send([.out(Self.list, 9)])
        #expect(queues[2].send([.out(Self.list, 0x10_0000)]) != nil)
    }

    @Test func `a held statistics buffer survives pause, save and reset`() throws {
        queues[2].send([.out(Self.list, 10)])
        device.pause()
        let saved = device.save()
        device.resume()
        try device.restore(saved)
        device.resume()
        balloon.requestStatistics()
        #expect(queues[2].poll() != nil)
        queues[2].send([.out(Self.list, 10)])
        driver.deviceStatus = 0
        #expect(driver.deviceStatus == 0)
        balloon.requestStatistics()
        var bad = balloon.save()
        bad.target = ramPages + 1
        #expect(throws: RestoreError.self) { try balloon.restore(bad) }
    }
}

import DeviceModel
import GuestMemory
import StateCodec
import Synchronization
import Testing

@testable import PCIBus
@testable import Virtio
@testable import VirtioDevices

/// A cable whose other end remembers the last frames.
final class RecordingCable: NetworkBackend {
    let hasLink: Bool
    private let frames = Mutex<[[UInt8]]>([])
    init(hasLink: Bool) { self.hasLink = hasLink }

    func send(_ frame: [UInt8]) {
        frames.withLock { frames in
            if frames.count >= 64 { frames.removeFirst() }
            frames.append(frame)
        }
    }
    var sent: [[UInt8]] { frames.withLock { $0 } }
}

private final class NetworkBoard {
    static let address: [UInt8] = [0x52, 0x54, 0, 0x12, 0x34, 0x56]
    static let data: UInt64 = 0x20_0000
    let bench: PCIBench
    let cable: RecordingCable
    let device: VirtioPCI<VirtioNetwork>
    let driver: VirtioTestDriver
    let receive: VirtioTestQueue, transmit: VirtioTestQueue

    init(hasLink: Bool, rom: [UInt8] = []) throws {
        bench = try PCIBench()
        cable = RecordingCable(hasLink: hasLink)
        device = VirtioPCI(
            VirtioNetwork(bench.context, address: Self.address, backend: cable), rom: rom)
        bench.bridge.insert(device.function, slot: 4)
        try bench.assignResources()
        driver = VirtioTestDriver(bench, slot: 4)
        let queues = driver.start()
        (receive, transmit) = (queues[0], queues[1])
    }

    /// Sends a header and `count` bytes of a frame.
    func send(_ count: Int) throws -> UInt32? {
        let bytes = [UInt8](repeating: 0xFF, count: 12) + (0..<count).map { UInt8(truncatingIfNeeded: $0) }
        try bench.memory.write(bytes, at: GuestAddress(Self.data))
        return transmit.send([.out(Self.data, UInt32(bytes.count))])?.length
    }
}

@Suite struct VirtioNetworkTests {
    @Test(arguments: [false, true])
    func `a card says its address, and whether it has a link`(hasLink: Bool) throws {
        let board = try NetworkBoard(hasLink: hasLink)
        #expect(board.bench.readConfig(4, 0) == 0x1041_1AF4)
        #expect(board.bench.readConfig(4, 0x0A, .word) == 0x0200)
        #expect(board.driver.readConfig(0, .dword) == 0x1200_5452)
        #expect(board.driver.readConfig(4, .dword) == 0x5634 | (hasLink ? 1 << 16 : 0))
    }

    @Test func `frames go to the cable without their headers`() throws {
        let board = try NetworkBoard(hasLink: true)
        for count in [14, 60, 1518] { #expect(try board.send(count) == 0) }
        #expect(board.cable.sent.map(\.count) == [14, 60, 1518])
        #expect(board.cable.sent[1] == (0..<60).map { UInt8($0) })
        // In pieces, the header cut, too.
        let data = NetworkBoard.data
        #expect(board.transmit.send([.out(data, 5), .out(data + 5, 10), .out(data + 15, 20)])?.length == 0)
        #expect(board.cable.sent[3] == (0..<23).map { UInt8($0) })
    }

    @Test(arguments: [-12, -1, 0, 13, 1519, 65_536])
    func `what is no frame is dropped and comes back`(count: Int) throws {
        let board = try NetworkBoard(hasLink: true)
        let length = UInt32(12 + count)
        #expect(board.transmit.send([.out(NetworkBoard.data, length)])?.length == 0)
        #expect(board.cable.sent.isEmpty && board.device.device.droppedFrames == 1)
        #expect(try board.send(14) == 0 && board.cable.sent.count == 1)
    }

    @Test func `without a cable every frame comes back, and no buffer for frames`() throws {
        let board = try NetworkBoard(hasLink: false)
        board.receive.add([.into(NetworkBoard.data, 2048)])
        board.receive.kick()
        for _ in 0..<600 { #expect(try board.send(60) == 0) }
        #expect(board.cable.sent.isEmpty && board.receive.poll() == nil)
        #expect(board.device.signals.faults == 0)
    }

    @Test func `the expansion ROM is where its register says, and nobody can write it`() throws {
        let rom = (0..<5000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        let board = try NetworkBoard(hasLink: false, rom: rom)
        board.bench.writeConfig(4, 0x30, ~0)
        #expect(board.bench.readConfig(4, 0x30) == 0xFFFF_E001)
        board.bench.writeConfig(4, 0x30, 0xDE00_0001)
        func byte(_ offset: Int) -> UInt8 {
            UInt8(truncatingIfNeeded: board.bench.mmio.read(0xDE00_0000 + UInt64(offset), width: .byte))
        }
        board.bench.mmio.write(0xDE00_0000, width: .dword, value: 0)
        #expect((0..<5000).allSatisfy { byte($0) == rom[$0] } && byte(5000) == 0xFF && byte(8191) == 0xFF)
        board.bench.writeConfig(4, 0x30, 0xDE00_0000)
        #expect(byte(1) == 0xFF)
    }

    @Test func `a card without a ROM has no register for one`() throws {
        let board = try NetworkBoard(hasLink: false)
        board.bench.writeConfig(4, 0x30, ~0)
        #expect(board.bench.readConfig(4, 0x30) == 0)
    }
}

import ByteLayout
import DeviceModel
import GuestMemory
import TestKit
import Testing

@testable import PCIBus
@testable import StorageDevices

@Suite struct NVMeTests {
    private typealias Command = NVMeTestDriver.Command
    private let driver: NVMeTestDriver
    private static let data = NVMeTestDriver.data, page: UInt64 = 4096

    init() throws {
        driver = try NVMeTestDriver()
        try driver.start()
        try driver.createQueues(1)
    }

    // MARK: The controller

    @Test func `the registers say what the controller is and that it is ready`() {
        #expect(
            driver.read(0) & 0xFFFF == 1023 && driver.read(0) >> 16 & 1 == 1 && driver.read(4) & 0x20 != 0)
        #expect(driver.read(NVMeRegister.version) == 0x0001_0400)
        #expect(driver.read(NVMeRegister.status) == 1)
        #expect(driver.controller.function.readConfig(offset: 8, count: 4) >> 8 == 0x01_08_02)
    }

    @Test(
        arguments: [
            (NVMeRegister.adminAttributes, 0), (NVMeRegister.adminSubmission, 0x10_0000),
            (NVMeRegister.adminCompletion + 4, 1), (NVMeRegister.configuration, 0x46_0081),
            (NVMeRegister.configuration, 0x46_0011),
        ] as [(UInt64, UInt32)])
    func `a controller that cannot begin says so`(register: UInt64, value: UInt32) {
        driver.write(NVMeRegister.configuration, 0)
        #expect(driver.read(NVMeRegister.status) == 0)
        driver.write(register, value)
        if register != NVMeRegister.configuration {
            driver.write(NVMeRegister.configuration, NVMeTestDriver.enable)
        }
        #expect(driver.read(NVMeRegister.status) == 2)
    }

    @Test func `identify tells of the controller, its namespace and what that is called`() throws {
        #expect(try driver.run(0, Command(opcode: 6, namespace: 0, words: [1]))?.status == 0)
        let controller = try driver.dataBytes(4096)
        #expect(Array(controller[4..<24]) == Array("serial-1            ".utf8))
        #expect(controller[512...513] == [0x66, 0x44] && controller[77] == 7 && controller[516] == 1)
        #expect(try driver.run(0, Command(opcode: 6, words: [0]))?.status == 0)
        let namespace = try driver.dataBytes(4096)
        #expect(namespace.load(littleEndian: UInt64.self, at: 0) == 4096 && namespace[130] == 9)
        #expect(namespace[99] == 0)
        #expect(try driver.run(0, Command(opcode: 6, namespace: 0, words: [2]))?.status == 0)
        #expect(try driver.dataBytes(8) == [1, 0, 0, 0, 0, 0, 0, 0])
        #expect(try driver.run(0, Command(opcode: 6, namespace: 1, words: [2]))?.status == 0)
        #expect(try driver.dataBytes(4) == [0, 0, 0, 0])
        #expect(try driver.run(0, Command(opcode: 6, words: [3]))?.status == 0)
        let descriptor = try driver.dataBytes(24)
        #expect(Array(descriptor[0..<4]) == [3, 16, 0, 0])
        #expect(Array(descriptor[4..<20]) == Array(namespace[104..<120]))
        #expect(try driver.run(0, Command(opcode: 6, namespace: 2, words: [0]))?.status == 0x0B)
        #expect(try driver.run(0, Command(opcode: 6, words: [0x17]))?.status == 2)
    }

    @Test func `logs count what was done and what went wrong`() throws {
        for _ in 0..<3 { _ = try driver.run(1, .blocks(2, 0, 8)) }
        _ = try driver.run(1, .blocks(1, 0, 1))
        _ = try driver.run(1, .blocks(2, 4096, 1))
        #expect(try driver.run(0, Command(opcode: 2, namespace: .max, words: [127 << 16 | 2]))?.status == 0)
        let health = try driver.dataBytes(512)
        #expect(health.load(littleEndian: UInt64.self, at: 32) == 1)
        #expect([64, 80, 176].map { health[$0] } == [3, 1, 1])
        #expect(try driver.run(0, Command(opcode: 2, words: [15 << 16 | 1]))?.status == 0)
        let errors = try driver.dataBytes(64)
        #expect(errors[0] == 1 && errors[8] == 1 && errors[12] == 0x00 && errors[13] == 1)
        // A part of the firmware's: the revision of slot 1.
        #expect(try driver.run(0, Command(opcode: 2, words: [3, 0, 8]))?.status == 0)
        #expect(try driver.dataBytes(4) == [0x31, 0x20, 0x20, 0x20])
        #expect(try driver.run(0, Command(opcode: 2, words: [3, 0, 516]))?.status == 2)
        #expect(try driver.run(0, Command(opcode: 2, words: [0x70]))?.status == 0x109)
    }

    @Test func `features are told, kept and lost by a reset of the controller`() throws {
        func get(_ feature: UInt32, _ word: UInt32 = 0) throws -> UInt32? {
            try driver.run(0, Command(opcode: 0x0A, words: [feature, word]))?.result
        }
        #expect(try driver.run(0, Command(opcode: 9, words: [7, 0x3_0003]))?.result == 0xF_000F)
        #expect(try driver.run(0, Command(opcode: 9, words: [7, 0xFFFF]))?.status == 2)
        #expect(try get(6) == 1 && get(7) == 0xF_000F && get(9, 5) == 5 && get(4) == 343)
        #expect(try driver.run(0, Command(opcode: 9, words: [6, 0]))?.status == 0)
        #expect(try driver.run(0, Command(opcode: 9, words: [0x0B, 0x1F]))?.status == 0)
        #expect(try get(6) == 0 && get(0x0B) == 0x1F)
        #expect(try driver.run(0, Command(opcode: 9, words: [0x8000_0006, 0]))?.status == 0x10D)
        #expect(try driver.run(0, Command(opcode: 0x0A, words: [0x7F]))?.status == 2)
        driver.write(NVMeRegister.configuration, 0)
        try driver.start()
        #expect(try get(6) == 1 && get(0x0B) == 0)
    }

    @Test func `a shutdown makes everything durable`() {
        driver.write(NVMeRegister.configuration, NVMeTestDriver.enable | 1 << 14)
        #expect(driver.read(NVMeRegister.status) == 0x9 && driver.disk.operations == [.flush])
    }

    // MARK: Queues

    @Test func `queues are made and deleted in the right order only`() throws {
        func admin(_ opcode: UInt8, _ words: [UInt32], at base: UInt64 = 0x7_0000) throws -> UInt16? {
            try driver.run(0, Command(opcode: opcode, pointers: (base, 0), words: words))?.status
        }
        #expect(try admin(5, [7 << 16 | 1, 1]) == 0x101, "it exists")
        #expect(try admin(5, [7 << 16, 1]) == 0x101)
        #expect(try admin(5, [7 << 16 | 17, 1]) == 0x101)
        #expect(try admin(5, [2, 1]) == 0x102)
        #expect(try admin(5, [1024 << 16 | 2, 1]) == 0x102)
        #expect(try admin(5, [7 << 16 | 2, 0]) == 2, "not contiguous")
        #expect(try admin(5, [7 << 16 | 2, 1], at: 0x7_0010) == 0x13)
        #expect(try admin(5, [7 << 16 | 2, 1], at: NVMeTestDriver.ram) == 2)
        #expect(try admin(5, [7 << 16 | 2, 17 << 16 | 3]) == 0x108)
        #expect(try admin(1, [7 << 16 | 2, 5 << 16 | 1]) == 0x100)
        #expect(try admin(1, [7 << 16 | 2, 1]) == 0x100, "the administrator's is for nobody else")
        #expect(try admin(4, [1]) == 0x10C, "a submission queue uses it")
        #expect(try admin(0, [9]) == 0x101 && admin(4, [9]) == 0x101 && admin(0, [0]) == 0x101)
        #expect(try admin(0, [1]) == 0 && admin(4, [1]) == 0)
        try driver.createQueues(16)
        #expect(try driver.run(16, Command(opcode: 0))?.queue == 16)
    }

    @Test func `a queue that is deleted ends its commands first, and takes no more`() throws {
        let driver = try NVMeTestDriver(MemoryDisk(sectors: 4096, mode: .held))
        try driver.start()
        try driver.createQueues(1)
        let first = try driver.send(1, .blocks(2, 0, 1))
        let deletion = try driver.send(0, Command(opcode: 0, words: [1]))
        #expect(try driver.takeCompletion(0) == nil)
        try driver.send(1, .blocks(2, 0, 1))
        #expect(driver.disk.heldCount == 1)
        driver.disk.release()
        #expect(try driver.takeCompletion(1)?.identifier == first)
        #expect(try driver.takeCompletion(0)?.identifier == deletion)
    }

    @Test func `completions wait for room, and commands for completions`() throws {
        for _ in 0..<7 { try driver.send(1, Command(opcode: 0), rings: false) }
        driver.ring(1)
        for _ in 0..<7 { try driver.send(1, Command(opcode: 0), rings: false) }
        driver.ring(1)
        #expect(driver.controller.save().registers.completions[1]?.waiting.count == 7)
        for _ in 0..<14 { #expect(try driver.takeCompletion(1)?.status == 0) }
        #expect(try driver.takeCompletion(1) == nil)
        for _ in 0..<200 {
            for _ in 0..<7 { try driver.send(1, Command(opcode: 0), rings: false) }
            driver.ring(1)
        }
        let waiting = try #require(driver.controller.save().registers.completions[1]?.waiting.count)
        #expect(waiting == NVMeController.mostCommands, "nobody takes completions")
        #expect(try driver.run(0, Command(opcode: 6, words: [1]))?.status == 0, "the administrator's go on")
        var count = 0
        while try driver.takeCompletion(1) != nil { count += 1 }
        #expect(count >= NVMeController.mostCommands + 7)
        #expect(driver.controller.save().registers.submissions[1]?.count == 0)
    }

    @Test func `each queue interrupts by its vector, and the pin stays until the queue is empty`() throws {
        try driver.createQueues(2)
        try driver.send(2, Command(opcode: 0))
        // MSI-X is off.
        #expect(driver.lines.isHigh(PCIHostBridge.line(slot: 4, pin: 0)))
        #expect(driver.messages.takeMessages().isEmpty)
        driver.write(NVMeRegister.interruptMaskSet, 1 << 2)
        #expect(!driver.lines.isHigh(PCIHostBridge.line(slot: 4, pin: 0)))
        driver.write(NVMeRegister.interruptMaskClear, 1 << 2)
        #expect(driver.lines.isHigh(PCIHostBridge.line(slot: 4, pin: 0)))
        #expect(try driver.takeCompletion(2) != nil)
        #expect(!driver.lines.isHigh(PCIHostBridge.line(slot: 4, pin: 0)))
        let entry = NVMeRegister.msixTable + 2 * 16
        driver.write(entry, 0xFEE0_1000)
        driver.write(entry + 8, 0x42)
        driver.write(entry + 12, 0)
        driver.controller.function.writeConfig(offset: 0x42, count: 2, value: 0x8000)
        _ = try driver.run(2, Command(opcode: 0))
        _ = try driver.run(1, Command(opcode: 0))
        #expect(driver.messages.takeMessages() == [MSIMessage(address: 0xFEE0_1000, data: 0x42)])
    }

    // MARK: Blocks

    @Test(arguments: [1, 7, 8, 9, 16, 17, 100] as [UInt32], [0, 4, 2048, 4092] as [UInt64])
    func `reads and writes go to all pages that the command names`(sectors: UInt32, offset: UInt64) throws {
        let count = Int(sectors) * 512, list = UInt64(0x7_0FF0)
        // Pages backwards, so that none follows on the one before.
        let pages = (0..<16).map { 0xE_0000 - $0 * Self.page }
        let firstPart = min(count, Int(Self.page - offset))
        let rest = (count - firstPart + 4095) / 4096
        // Two entries fit on the first page of the list; the second one leads on to the next.
        if rest > 2 {
            try driver.memory.store(pages[1], at: GuestAddress(list))
            try driver.memory.store(UInt64(0x7_2000), at: GuestAddress(list + 8))
            for index in 2..<max(rest + 1, 3) {
                try driver.memory.store(pages[index], at: GuestAddress(0x7_2000 + UInt64(index - 2) * 8))
            }
        } else if rest == 2 {
            try driver.memory.store(pages[1], at: GuestAddress(list))
            try driver.memory.store(pages[2], at: GuestAddress(list + 8))
        }
        let pointers = (pages[0] + offset, rest > 1 ? list : pages[1])
        #expect(try driver.run(1, .blocks(2, 64, sectors, pointers))?.status == 0)
        var read = try driver.dataBytes(firstPart, at: pages[0] + offset)
        for index in 0..<rest {
            read += try driver.dataBytes(min(4096, count - read.count), at: pages[index + 1])
        }
        #expect(read == Array(driver.disk.bytes[64 * 512..<64 * 512 + count]))
        #expect(try driver.run(1, .blocks(1, 2000, sectors, pointers))?.status == 0)
        #expect(Array(driver.disk.bytes[2000 * 512..<2000 * 512 + count]) == read)
    }

    @Test func `flush, forced unit access and a write cache that is off make writes durable`() throws {
        #expect(try driver.run(1, .blocks(1, 0, 1))?.status == 0)
        #expect(driver.disk.operations == [.write])
        #expect(try driver.run(1, .blocks(1, 0, 1, more: 1 << 30))?.status == 0)
        #expect(driver.disk.operations == [.write, .write, .flush])
        #expect(try driver.run(1, Command(opcode: 0, namespace: .max))?.status == 0)
        #expect(driver.disk.operations.count == 4)
        _ = try driver.run(0, Command(opcode: 9, words: [6, 0]))
        #expect(try driver.run(1, .blocks(8, 0, 1, more: 1 << 25))?.status == 0)
        #expect(driver.disk.operations.suffix(2) == [.writeZeroes(mayUnmap: true), .flush])
        #expect(driver.disk.bytes[0..<512].allSatisfy { $0 == 0 })
    }

    @Test func `dataset management gives up ranges, and only when it says so`() throws {
        func range(_ first: UInt64, _ count: UInt32, at index: Int) throws {
            var bytes: [UInt8] = [0, 0, 0, 0]
            bytes.append(littleEndian: count)
            bytes.append(littleEndian: first)
            try driver.memory.write(bytes, at: GuestAddress(Self.data + UInt64(index) * 16))
        }
        try range(10, 2, at: 0)
        try range(0, 0, at: 1)
        try range(4095, 1, at: 2)
        #expect(try driver.run(1, Command(opcode: 9, words: [2, 0]))?.status == 0)
        #expect(driver.disk.operations.isEmpty)
        #expect(try driver.run(1, Command(opcode: 9, words: [2, 4]))?.status == 0)
        #expect(driver.disk.operations == [.discard, .discard])
        #expect(driver.disk.bytes[10 * 512..<12 * 512].allSatisfy { $0 == 0 })
        try range(4095, 2, at: 2)
        #expect(try driver.run(1, Command(opcode: 9, words: [2, 4]))?.status == 0x80)
        #expect(driver.disk.operations.count == 2, "nothing of a command that is wrong is done")
    }

    @Test func `a disk that fails or is only read says so`() throws {
        driver.disk.isFailing = true
        #expect(try driver.run(1, .blocks(2, 0, 1))?.status == 0x281)
        #expect(try driver.run(1, .blocks(1, 0, 1))?.status == 0x280)
        let driver = try NVMeTestDriver(MemoryDisk(sectors: 128, readOnly: true))
        try driver.start()
        try driver.createQueues(1)
        for opcode in [1, 8] as [UInt8] { #expect(try driver.run(1, .blocks(opcode, 0, 1))?.status == 0x20) }
        #expect(try driver.run(1, .blocks(2, 0, 1))?.status == 0)
        #expect(try driver.run(0, Command(opcode: 6, words: [0]))?.status == 0)
        #expect(try driver.dataBytes(100)[99] == 1)
    }

    // MARK: Events

    @Test func `an event answers one request, and again when its log was read`() throws {
        for _ in 0..<4 { try driver.send(0, Command(opcode: 0x0C)) }
        #expect(try driver.takeCompletion(0) == nil)
        #expect(try driver.run(0, Command(opcode: 0x0C))?.status == 0x105)
        driver.write(NVMeRegister.doorbells + 9 * 8, 1)
        #expect(try driver.takeCompletion(0)?.result == 0x01_0000)
        driver.write(NVMeRegister.doorbells + 8, 100)
        #expect(try driver.takeCompletion(0) == nil, "it was told of this type")
        try driver.send(0, Command(opcode: 2, words: [15 << 16 | 1]))
        #expect(try driver.takeCompletion(0)?.result == 0x01_0100)
        #expect(try driver.takeCompletion(0)?.result == 0)
        // The next request is given back when it is aborted.
        let next = try #require(driver.controller.save().registers.events.requests.first)
        try driver.send(0, Command(opcode: 8, words: [UInt32(next) << 16]))
        #expect(try driver.takeCompletion(0)?.status == 7)
        #expect(try driver.takeCompletion(0)?.result == 0)
        #expect(try driver.run(0, Command(opcode: 8, words: [1 << 16 | 1]))?.result == 1)
    }

    // MARK: What a hostile guest may try

    @Test(
        arguments: [
            ((2, 0), 0x13), ((NVMeTestDriver.ram, 0), 4), ((0xFFFF_FFFF_FFFF_F000, 0), 4),
            ((0x8_0000, 0x8_1008), 0x13), ((0x8_0000, NVMeTestDriver.ram), 4),
            ((NVMeTestDriver.bar, 0), 4),
        ] as [((UInt64, UInt64), UInt16)])
    func `addresses that are no memory fail the command`(pointers: (UInt64, UInt64), status: UInt16) throws {
        #expect(try driver.run(1, .blocks(2, 0, 16, pointers))?.status == status)
        #expect(try driver.run(1, .blocks(2, 0, 16, (Self.data, Self.data + 4096)))?.status == 0)
    }

    @Test func `lists that lead nowhere or in circles end`() throws {
        for (list, status) in [(0x7_0004, 0x13), (NVMeTestDriver.ram, 4), (0x7_0FF8, 0)] as [(UInt64, UInt16)]
        {
            // The last place of a page leads to the list's own beginning, where good entries are.
            if status == 0 {
                try driver.memory.store(UInt64(0x7_0000), at: GuestAddress(list))
                for index in 0..<16 as Range<UInt64> {
                    try driver.memory.store(Self.data, at: GuestAddress(0x7_0000 + index * 8))
                }
            }
            #expect(try driver.run(1, .blocks(2, 0, 64, (Self.data, list)))?.status == status)
        }
        try driver.memory.store(UInt64(0x7_0FF8), at: GuestAddress(0x7_0FF8))
        #expect(try driver.run(1, .blocks(2, 0, 64, (Self.data, 0x7_0FF8)))?.status == 0x13)
    }

    @Test func `commands that are nonsense fail with their reason`() throws {
        let cases: [(Command, UInt16)] = [
            (.blocks(2, 4095, 2), 0x80), (.blocks(2, .max, 1), 0x80), (.blocks(2, 0, 1025), 2),
            (Command(opcode: 2, namespace: 0), 0x0B), (Command(opcode: 2, namespace: .max), 0x0B),
            (Command(opcode: 2, flags: 0x40), 2), (Command(opcode: 2, flags: 1), 2),
            (Command(opcode: 5), 1), (Command(opcode: 0xFF), 1), (.blocks(8, 4000, 97), 0x80),
        ]
        for (command, status) in cases { #expect(try driver.run(1, command)?.status == status, "\(command)") }
        #expect(try driver.run(0, Command(opcode: 0x7F))?.status == 1)
        #expect(driver.disk.operations.isEmpty)
    }

    @Test func `a reset in the middle of commands forgets them`() throws {
        let driver = try NVMeTestDriver(MemoryDisk(sectors: 4096, mode: .held))
        try driver.start()
        try driver.createQueues(1)
        for _ in 0..<4 { try driver.send(1, .blocks(2, 0, 1)) }
        #expect(driver.disk.heldCount == 4)
        driver.write(NVMeRegister.configuration, 0)
        #expect(driver.disk.heldCount == 0 && driver.read(NVMeRegister.status) == 0)
        driver.ring(1)
        try driver.start()
        #expect(try driver.run(0, Command(opcode: 6, words: [1]))?.status == 0)
        driver.controller.reset()
        #expect(driver.read(NVMeRegister.adminAttributes) == 0xFFFF_FFFF, "BAR 0 is off")
    }

    @Test func `a pause ends what is under way, and the saved state goes on elsewhere`() throws {
        let disk = MemoryDisk(sectors: 4096, mode: .held)
        let driver = try NVMeTestDriver(disk)
        try driver.start()
        try driver.createQueues(1)
        for _ in 0..<3 { try driver.send(1, .blocks(2, 0, 1)) }
        driver.controller.pause()
        try driver.send(1, .blocks(2, 0, 1))
        #expect(disk.heldCount == 0)
        let saved = driver.controller.save()
        driver.controller.reset()
        try driver.controller.restore(saved)
        #expect(driver.controller.save() == saved)
        driver.controller.resume()
        disk.drain()
        for _ in 0..<4 { #expect(try driver.takeCompletion(1)?.status == 0) }
        var broken = saved
        broken.registers.submissions[1]?.completionQueue = 9
        #expect(throws: RestoreError.self) { try driver.controller.restore(broken) }
        broken = saved
        broken.registers.completions[1]?.head = 8
        #expect(throws: RestoreError.self) { try driver.controller.restore(broken) }
        broken = saved
        broken.registers.submissions[1]?.base = NVMeTestDriver.ram
        #expect(throws: RestoreError.self) { try driver.controller.restore(broken) }
    }

    @Test(arguments: 1...6 as ClosedRange<UInt64>)
    func `whatever a guest sends, the controller answers afterwards`(seed: UInt64) throws {
        var random = ChipsetRandom(seed: seed)
        let driver = try NVMeTestDriver(
            MemoryDisk(sectors: 4096, mode: seed % 2 == 0 ? .immediate : .threaded))
        try driver.start()
        func address(_ random: inout ChipsetRandom) -> UInt64 {
            switch random.below(5) {
            case 0: random.value()
            case 1: Self.data + UInt64(random.below(0x8_0000))
            default: UInt64(random.below(256)) << 12
            }
        }
        for step in 0..<30_000 {
            let queue = random.below(4)
            switch random.below(20) {
            case 0:
                driver.write(UInt64(random.below(0x1100)) & ~3, UInt32(truncatingIfNeeded: random.value()))
            case 1: try? driver.memory.store(random.value(), at: GuestAddress(address(&random) & 0xF_FFF8))
            case 2: driver.ringCompletion(queue)
            case 3: _ = try driver.takeCompletion(queue)
            case 4 where step % 50 == 0:
                driver.write(NVMeRegister.configuration, 0)
                try driver.start()
            case 5:
                driver.controller.pause()
                let saved = driver.controller.save()
                try driver.controller.restore(saved)
                #expect(driver.controller.save() == saved)
                driver.controller.resume()
            default:
                let isAdmin = random.chance(2)
                let codes = isAdmin ? NVMeAdminOpcode.all : NVMeOpcode.all
                var command = Command(opcode: codes[random.below(codes.count)])
                command.namespace = random.chance(8) ? UInt32(truncatingIfNeeded: random.value()) : 1
                command.pointers = (
                    address(&random) & ~0xFFF, address(&random) & (random.chance(2) ? ~0xFFF : ~7)
                )
                command.words = (0..<6).map { _ in
                    random.chance(3)
                        ? UInt32(truncatingIfNeeded: random.value())
                        : UInt32(random.below(8)) | UInt32(random.below(4)) << 16
                }
                try driver.send(isAdmin ? 0 : queue, command)
            }
        }
        driver.write(NVMeRegister.configuration, 0)
        driver.controller.reset()
        let bar = UInt32(NVMeTestDriver.bar)
        driver.controller.function.writeConfig(offset: 0x10, count: 4, value: bar)
        driver.controller.function.writeConfig(offset: 4, count: 2, value: 6)
        try driver.start()
        try driver.createQueues(3)
        try driver.send(3, .blocks(2, 0, 1))
        driver.controller.pause()
        #expect(try driver.takeCompletion(3)?.status == 0)
    }
}

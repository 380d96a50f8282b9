import DeviceModel
import PCIBus
import Testing
@testable import Virtio
@testable import VirtioDevices

@Suite struct VirtioTransportTests {
    let disk = MemoryDisk(mode: .held)
    let bench: PCIBench
    let driver: VirtioTestDriver
    static let header: UInt64 = 0x20_0000

    init() throws {
        let disk = disk
        let parts = try VirtioBench { VirtioPCI(VirtioBlock($0.context, backend: disk)) }
        bench = parts.bench
        driver = parts.driver
    }

    @Test func `the capabilities describe a modern device`() {
        #expect(bench.readConfig(4, 0) == 0x1042_1AF4)
        #expect(bench.readConfig(4, 8, .byte) == 1)
        #expect(driver.common.length == 64)
        #expect(driver.notifyMultiplier == 4)
        #expect(driver.status.length == 1)
        #expect(driver.device.length == 60)
        #expect(driver.accessCapability != 0 && driver.msixCapability != 0)
        #expect(driver.read(CommonRegister.queueCount, .word) == 1)
        #expect(driver.read(CommonRegister.queueSize, .word) == 256)
    }

    @Test func `features need VERSION_1 and nothing that was not offered`() {
        #expect(!driver.negotiate(0))
        #expect(!driver.negotiate(VirtioFeature.version1 | 1 << 33))
        #expect(!driver.negotiate(VirtioFeature.version1 | 1 << 23))
        #expect(driver.negotiate(VirtioFeature.version1))
    }

    @Test func `features written after FEATURES_OK change nothing`() {
        driver.negotiate(VirtioFeature.version1)
        driver.write(CommonRegister.driverFeatureSelect, .dword, 0)
        driver.write(CommonRegister.driverFeature, .dword, 0xFFFF_FFFF)
        #expect(driver.read(CommonRegister.driverFeature, .dword) == 0)
        driver.deviceStatus = 15
        #expect(driver.deviceStatus == 15)
    }

    @Test func `DRIVER_OK needs FEATURES_OK, and bits are cleared by reset only`() {
        driver.deviceStatus = 0
        driver.deviceStatus = 5
        #expect(driver.deviceStatus == 1)
        driver.deviceStatus = 2
        #expect(driver.deviceStatus == 3)
        driver.deviceStatus = 0xFF
        #expect(driver.deviceStatus & DeviceStatus.needsReset == 0)
        driver.deviceStatus = 0
        #expect(driver.deviceStatus == 0)
    }

    @Test(arguments: [2, 0xFFFF_FFFF] as [UInt64])
    func `feature selectors beyond 1 show and change nothing`(select: UInt64) {
        driver.deviceStatus = 0
        driver.write(CommonRegister.deviceFeatureSelect, .dword, select)
        #expect(driver.read(CommonRegister.deviceFeature, .dword) == 0)
        driver.write(CommonRegister.driverFeatureSelect, .dword, select)
        driver.write(CommonRegister.driverFeature, .dword, 0xFFFF_FFFF)
        #expect(driver.read(CommonRegister.driverFeature, .dword) == 0)
    }

    @Test(arguments: [1, 7, 0x8000, 0xFFFF] as [UInt64])
    func `a queue that does not exist has size 0 and takes no writes`(queue: UInt64) {
        driver.negotiate(VirtioFeature.version1)
        driver.write(CommonRegister.queueSelect, .word, queue)
        for register in [CommonRegister.queueSize, CommonRegister.queueVector, CommonRegister.queueEnable] {
            driver.write(register, .word, 1)
            #expect(driver.read(register, .word) == 0)
        }
        driver.write(CommonRegister.queueDescriptors, .qword, ~0)
        #expect(driver.read(CommonRegister.queueDescriptors, .qword) == 0)
    }

    @Test(arguments: [2, 100, 0xFFFE] as [UInt64])
    func `a vector that does not exist reads back as none`(vector: UInt64) {
        driver.write(CommonRegister.configVector, .word, vector)
        #expect(driver.read(CommonRegister.configVector, .word) == 0xFFFF)
        driver.write(CommonRegister.queueSelect, .word, 0)
        driver.write(CommonRegister.queueVector, .word, vector)
        #expect(driver.read(CommonRegister.queueVector, .word) == 0xFFFF)
    }

    @Test func `fields are written whole and read at any width`() {
        driver.write(CommonRegister.queueSelect, .word, 0)
        driver.write(CommonRegister.queueDescriptors, .dword, 0x1234_5000)
        driver.write(CommonRegister.queueDescriptors + 4, .dword, 0x9)
        driver.write(CommonRegister.queueDescriptors, .byte, 0xFF)
        driver.write(CommonRegister.queueDescriptors + 2, .dword, 0xFF)
        #expect(driver.read(CommonRegister.queueDescriptors, .qword) == 0x9_1234_5000)
        #expect(driver.read(CommonRegister.queueDescriptors + 1, .word) == 0x3450)
        #expect(driver.read(0x3F, .qword) == 0)
        #expect(driver.read(0xFFF, .byte) == 0)
    }

    @Test func `the configuration access window reaches the registers`() {
        let at = driver.accessCapability
        func access(_ offset: UInt32, _ length: UInt32) {
            bench.writeConfig(4, at + 4, UInt32(VirtioBAR.registers), .byte)
            bench.writeConfig(4, at + 8, offset)
            bench.writeConfig(4, at + 12, length)
        }
        access(UInt32(CommonRegister.queueSelect), 2)
        bench.writeConfig(4, at + 16, 0x1234)
        #expect(bench.readConfig(4, at + 16, .word) == 0x1234)
        #expect(driver.read(CommonRegister.queueSelect, .word) == 0x1234)
        access(UInt32(CommonRegister.deviceStatus), 1)
        bench.writeConfig(4, at + 16, 0x1)
        #expect(driver.deviceStatus == 1)
        for (bar, offset, length) in [
            (9, 0, 4), (4, 0x3FFE, 4), (4, ~0, 4), (4, 1, 4), (4, 0, 3), (4, 0, ~0), (4, 0, 8),
        ]
            as [(UInt32, UInt32, UInt32)]
        {
            access(offset, length)
            bench.writeConfig(4, at + 4, bar, .byte)
            bench.writeConfig(4, at + 16, ~0)
            _ = bench.readConfig(4, at + 16)
        }
        #expect(driver.deviceStatus == 1)
    }

    @Test func `a reset in mid-I/O waits for the requests and starts afresh`() {
        var queue = driver.start()[0]
        queue.store(UInt32(0), Self.header)
        queue.send([.out(Self.header, 16), .into(0x20_1000, 512), .into(0x20_0100, 1)])
        #expect(disk.heldCount == 1)
        driver.deviceStatus = 0
        #expect(driver.deviceStatus == 0)
        #expect(disk.heldCount == 0)
        #expect(driver.read(CommonRegister.queueEnable, .word) == 0)
        _ = bench.interrupts.take()
        queue = driver.start()[0]
        #expect(queue.poll() == nil)
        queue.send([.out(Self.header, 16), .into(0x20_1000, 512), .into(0x20_0100, 1)])
        disk.release()
        #expect(queue.poll()?.id == 0)
        #expect(bench.interrupts.take().map(\.data) == [0x41])
    }

    @Test func `a queue reset leaves the device running`() {
        let queue = driver.start()[0]
        queue.store(UInt32(4), Self.header)
        queue.send([.out(Self.header, 16), .into(0x20_0100, 1)])
        driver.write(CommonRegister.queueSelect, .word, 0)
        driver.write(CommonRegister.queueReset, .word, 1)
        #expect(driver.read(CommonRegister.queueReset, .word) == 0)
        #expect(driver.read(CommonRegister.queueEnable, .word) == 0)
        #expect(disk.heldCount == 0)
        let again = driver.setUp(queue: 0, size: 32, at: 0x18_0000)
        again.send([.out(Self.header, 16), .into(0x20_0100, 1)])
        disk.release()
        #expect(again.poll()?.length == 1)
    }

    @Test func `without MSI-X the pin and the status register work`() {
        driver.negotiate(driver.offeredFeatures)
        let queue = driver.setUp(queue: 0, at: 0x10_0000)
        driver.deviceStatus = 15
        queue.store(UInt32(4), Self.header)
        queue.send([.out(Self.header, 16), .into(0x20_0100, 1)])
        let line = PCIHostBridge.line(slot: 4, pin: 0)
        #expect(!bench.interrupts.isHigh(line))
        disk.release()
        #expect(bench.interrupts.isHigh(line))
        #expect(bench.mmio.read(driver.status.address, width: .byte) == 1)
        #expect(!bench.interrupts.isHigh(line))
        #expect(bench.mmio.read(driver.status.address, width: .byte) == 0)
    }

    @Test func `a full reset of the machine clears everything`() throws {
        let block = VirtioPCI(VirtioBlock(bench.context, backend: MemoryDisk()))
        bench.bridge.insert(block.function, slot: 6)
        try bench.assignResources()
        let second = VirtioTestDriver(bench, slot: 6)
        _ = second.start()
        block.reset()
        #expect(bench.mmio.read(second.common.address, width: .dword) == 0xFFFF_FFFF)
        try bench.assignResources()
        #expect(second.deviceStatus == 0)
        #expect(second.read(CommonRegister.queueEnable, .word) == 0)
    }
}

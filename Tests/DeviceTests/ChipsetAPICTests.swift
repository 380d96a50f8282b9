import DeviceModel
import TestKit
import Testing
import VCPUEngine

@testable import ChipsetDevices

/// Local APICs with the enabling that every operating system does.
struct APICBench {
    let bench = ChipsetBench()
    let complex: APICComplex
    var apics: [LocalAPIC] { complex.apics }
    var bus: APICBus { complex.bus }

    init(count: Int = 4, softwareEnabled: Bool = true) {
        complex = APICComplex(bench.context, count: count)
        guard softwareEnabled else { return }
        for apic in complex.apics { apic.writePage(offset: 0xF0, width: .dword, value: 0x1FF) }
        complex.wakes.take()
    }

    func enterX2APIC() {
        for apic in apics { #expect(apic.setAPICBase(apic.apicBase | 1 << 10)) }
    }
    /// Which processors have `vector` pending.
    func pending(_ vector: UInt8) -> [Int] { apics.indices.filter { apics[$0].pendingVector() == vector } }
    func clearAll() {
        for apic in apics {
            while apic.acknowledge() != nil { apic.endOfInterrupt() }
        }
    }
}

extension LocalAPIC {
    func register(_ offset: UInt32) -> UInt32 { readPage(offset: offset, width: .dword) }
    func set(_ offset: UInt32, _ value: UInt32) { writePage(offset: offset, width: .dword, value: value) }
    /// Sends through the xAPIC command register.
    func command(_ low: UInt32, to destination: UInt32 = 0) {
        set(0x310, destination << 24)
        set(0x300, low)
    }
}

@Suite struct ChipsetAPICTests {
    @Test func `after reset the APIC is enabled in hardware only`() {
        let setup = APICBench(count: 2, softwareEnabled: false)
        #expect(setup.apics[0].apicBase == 0xFEE0_0900)
        #expect(setup.apics[1].apicBase == 0xFEE0_0800)
        #expect(setup.apics[1].register(0x20) == 1 << 24)
        #expect(setup.apics[0].register(0x30) == 0x0105_0014)
        #expect(setup.apics[0].register(0xF0) == 0xFF)
        #expect(setup.apics[0].register(0x320) == 0x10000)
        setup.bus.deliver(MSIMessage(address: 0xFEE0_0000, data: 0x41))
        #expect(setup.apics[0].pendingVector() == nil)
    }

    @Test func `only the bootstrap processor takes the PIC's interrupts after reset`() {
        let setup = APICBench(count: 2, softwareEnabled: false)
        #expect(setup.apics[0].acceptsExternalInterrupt)
        #expect(!setup.apics[1].acceptsExternalInterrupt)
        setup.apics[0].set(0xF0, 0x1FF)
        setup.apics[0].set(0x350, 0x10700)
        #expect(!setup.apics[0].acceptsExternalInterrupt)
        #expect(setup.apics[0].setAPICBase(0xFEE0_0100))
        #expect(setup.apics[0].acceptsExternalInterrupt, "a disabled APIC passes INTR through")
    }

    @Test func `a vector is requested, served and ended`() {
        let setup = APICBench()
        let apic = setup.apics[0]
        apic.command(0x4041)
        #expect(apic.pendingVector() == 0x41)
        #expect(setup.complex.wakes.all == [0])
        #expect(apic.register(0x220) == 2)
        #expect(apic.acknowledge() == 0x41)
        #expect(apic.pendingVector() == nil)
        #expect(apic.register(0x220) == 0)
        #expect(apic.register(0x120) == 2)
        #expect(apic.register(0xA0) == 0x40)
        apic.set(0xB0, 0)
        #expect(apic.register(0x120) == 0)
        #expect(apic.acknowledge() == nil)
    }

    @Test func `higher classes preempt and the same class waits`() {
        let setup = APICBench()
        let apic = setup.apics[0]
        apic.command(0x41)
        #expect(apic.acknowledge() == 0x41)
        apic.command(0x4F)
        #expect(apic.pendingVector() == nil)
        apic.command(0x51)
        #expect(apic.acknowledge() == 0x51)
        apic.endOfInterrupt()
        #expect(apic.pendingVector() == nil)
        setup.complex.wakes.take()
        apic.endOfInterrupt()
        #expect(apic.pendingVector() == 0x4F)
        #expect(setup.complex.wakes.all == [0], "what becomes deliverable kicks the processor")
    }

    @Test func `the task priority holds interrupts back`() {
        let setup = APICBench()
        let apic = setup.apics[0]
        apic.taskPriority = 5
        #expect(apic.register(0x80) == 0x50)
        #expect(apic.taskPriority == 5)
        apic.command(0x5F)
        #expect(apic.pendingVector() == nil)
        apic.command(0x60)
        #expect(apic.acknowledge() == 0x60)
        apic.endOfInterrupt()
        apic.set(0x80, 0x4F)
        #expect(apic.register(0xA0) == 0x4F)
        #expect(apic.pendingVector() == 0x5F)
    }

    @Test(
        arguments: [
            (0x4_0041, [0]), (0x8_0041, [0, 1, 2, 3]), (0xC_0041, [1, 2, 3]),
        ] as [(UInt32, [Int])])
    func `shorthands choose their processors`(command: UInt32, expected: [Int]) {
        let setup = APICBench()
        setup.apics[0].command(command, to: 2)
        #expect(setup.pending(0x41) == expected)
    }

    @Test(arguments: [(0, [0]), (3, [3]), (4, []), (200, []), (255, [0, 1, 2, 3])] as [(UInt32, [Int])])
    func `physical destinations are identifiers`(destination: UInt32, expected: [Int]) {
        let setup = APICBench()
        setup.apics[1].command(0x4041, to: destination)
        #expect(setup.pending(0x41) == expected)
        setup.clearAll()
        setup.bus.deliver(MSIMessage(address: 0xFEE0_0000 | UInt64(destination) << 12, data: 0x42))
        #expect(setup.pending(0x42) == expected)
    }

    @Test(arguments: [(0x05, [0, 2]), (0x08, [3]), (0xF0, []), (0xFF, [0, 1, 2, 3])] as [(UInt32, [Int])])
    func `flat logical destinations are bits`(destination: UInt32, expected: [Int]) {
        let setup = APICBench()
        for (index, apic) in setup.apics.enumerated() { apic.set(0xD0, 1 << UInt32(24 + index)) }
        setup.apics[0].command(0x4841, to: destination)
        #expect(setup.pending(0x41) == expected)
    }

    @Test(
        arguments: [
            (0x13, [0, 1]), (0x12, [1]), (0x21, [2]), (0x23, [2, 3]), (0x31, []), (0xF1, [0, 2]),
        ] as [(UInt32, [Int])])
    func `cluster logical destinations are a cluster and bits`(destination: UInt32, expected: [Int]) {
        let setup = APICBench()
        for (index, apic) in setup.apics.enumerated() {
            apic.set(0xE0, 0x0FFF_FFFF)
            apic.set(0xD0, UInt32(index / 2 + 1) << 28 | UInt32(index % 2 + 1) << 24)
        }
        setup.apics[0].command(0x4841, to: destination)
        #expect(setup.pending(0x41) == expected)
    }

    @Test func `x2APIC logical identifiers follow from the processor`() {
        let setup = APICBench(count: 20)
        setup.enterX2APIC()
        #expect(setup.apics[17].readMSR(0x80D) == 0x0001_0002)
        #expect(setup.apics[17].readMSR(0x802) == 17)
        #expect(setup.apics[0].writeMSR(0x830, 0x0001_0006_0000_4841))
        #expect(setup.pending(0x41) == [17, 18])
        setup.clearAll()
        #expect(setup.apics[0].writeMSR(0x830, 0xFFFF_FFFF_0000_4041))
        #expect(setup.pending(0x41).count == 20)
    }

    @Test func `lowest priority goes to the least busy enabled processor of the set`() {
        let setup = APICBench()
        for (index, apic) in setup.apics.enumerated() {
            apic.set(0xD0, 1 << UInt32(24 + index))
            apic.taskPriority = index == 2 ? 1 : 3
        }
        setup.bus.deliver(MSIMessage(address: 0xFEE0_F00C, data: 0x141))
        #expect(setup.pending(0x41) == [2])
        setup.apics[2].set(0xF0, 0xFF)
        setup.bus.deliver(MSIMessage(address: 0xFEE0_F00C, data: 0x51))
        #expect(setup.pending(0x51).count == 1)
        #expect(setup.pending(0x51) != [2])
    }

    @Test(arguments: [0xFEC0_0000, 0, 0x1_FEE0_0000, .max] as [UInt64])
    func `stores outside the interrupt window are no messages`(address: UInt64) {
        let setup = APICBench()
        setup.bus.deliver(MSIMessage(address: address, data: 0x41))
        #expect(setup.bus.deliveredCount == 0)
        #expect(setup.pending(0x41) == [])
    }

    @Test func `INIT and SIPI start a processor as Linux does`() {
        let setup = APICBench(count: 2)
        let (boot, other) = (setup.apics[0], setup.apics[1])
        other.set(0x320, 0x200EF)
        boot.command(0xC500, to: 1)
        boot.command(0x8500, to: 1)
        #expect(other.hasSignal)
        #expect(other.takeSignal() == .initialize)
        #expect(other.takeSignal() == nil)
        #expect(other.register(0x320) == 0x10000, "INIT resets the registers")
        #expect(other.register(0xF0) == 0xFF)
        boot.command(0x0000_0699, to: 1)
        boot.command(0x0000_0699, to: 1)
        #expect(other.takeSignal() == .startup(vector: 0x99))
        #expect(other.takeSignal() == nil)
        #expect(boot.takeSignal() == nil)
    }

    @Test func `INIT overtakes what came before it`() {
        let setup = APICBench(count: 2)
        let (boot, other) = (setup.apics[0], setup.apics[1])
        boot.command(0x0400, to: 1)
        boot.command(0x0612, to: 1)
        boot.command(0x4500, to: 1)
        boot.command(0x0634, to: 1)
        boot.command(0x0400, to: 1)
        #expect(other.takeSignal() == .initialize)
        #expect(other.takeSignal() == .startup(vector: 0x34))
        #expect(other.takeSignal() == .nmi)
        #expect(!other.hasSignal)
    }

    @Test func `NMIs to all but self are signals, not vectors`() {
        let setup = APICBench()
        setup.apics[0].command(0xC_0402)
        #expect(setup.apics.map { $0.takeSignal() } == [nil, .nmi, .nmi, .nmi])
        #expect(setup.complex.wakes.all.sorted() == [1, 2, 3])
    }

    @Test func `illegal vectors are errors`() {
        let setup = APICBench()
        let apic = setup.apics[0]
        apic.set(0x370, 0xFE)
        apic.command(0x4005)
        #expect(apic.register(0x280) == 0)
        apic.set(0x280, 0)
        #expect(apic.register(0x280) == 0x20)
        #expect(apic.acknowledge() == 0xFE)
        setup.bus.deliver(MSIMessage(address: 0xFEE0_0000, data: 0x0F))
        apic.set(0x280, 0)
        #expect(apic.register(0x280) == 0x40)
        apic.set(0x40, 1)
        apic.set(0x280, 0)
        #expect(apic.register(0x280) == 0x80)
    }

    @Test func `an illegal vector in the error entry does not recurse`() {
        let setup = APICBench()
        setup.apics[0].set(0x370, 0x03)
        setup.apics[0].command(0x4005)
        #expect(setup.apics[0].pendingVector() == nil)
    }

    @Test func `software disable masks the local vectors and keeps them masked`() {
        let setup = APICBench()
        let apic = setup.apics[0]
        apic.set(0x350, 0x31)
        apic.set(0xF0, 0xFF)
        #expect(apic.register(0x350) == 0x10031)
        apic.set(0x350, 0x31)
        #expect(apic.register(0x350) == 0x10031)
        setup.bus.deliver(MSIMessage(address: 0xFEE0_0000, data: 0x41))
        #expect(apic.pendingVector() == nil)
    }

    @Test func `local pins deliver by their entries`() {
        let setup = APICBench()
        let apic = setup.apics[0]
        apic.set(0x360, 0x400)
        apic.setLocalPin(1, asserted: true)
        #expect(apic.takeSignal() == .nmi)
        apic.set(0x350, 0x8031)
        apic.setLocalPin(0, asserted: true)
        #expect(apic.acknowledge() == 0x31)
        #expect(apic.register(0x350) == 0xC031)
        apic.endOfInterrupt()
        #expect(apic.acknowledge() == 0x31, "the level is still there")
        apic.setLocalPin(0, asserted: false)
        apic.endOfInterrupt()
        #expect(apic.pendingVector() == nil)
    }

    @Test(
        arguments: [
            (0xFEE0_0900, 0xFEE0_0D00, true), (0xFEE0_0900, 0xFEE0_0500, false),
            (0xFEE0_0900, 0xFEE0_0100, true),
            (0xFEE0_0D00, 0xFEE0_0900, false), (0xFEE0_0D00, 0xFEE0_0100, true),
            (0xFEE0_0100, 0xFEE0_0D00, false),
            (0xFEE0_0100, 0xFEE0_0900, true), (0xFEE0_0900, 0xFEE0_0901, false),
            (0xFEE0_0900, 0xFEE0_0B00, false),
            (0xFEE0_0900, 1 << 46 | 0x900, false), (0xFEE0_0900, 0x1_0000_0900, true),
        ] as [(UInt64, UInt64, Bool)])
    func `the base register allows the architecture's transitions`(from: UInt64, to: UInt64, allowed: Bool) {
        let setup = APICBench(count: 1)
        let apic = setup.apics[0]
        #expect(apic.setAPICBase(from))
        #expect(apic.setAPICBase(to) == allowed)
        #expect(apic.apicBase == (allowed ? to : from))
    }

    @Test func `x2APIC registers need x2APIC mode and the page xAPIC mode`() {
        let setup = APICBench(count: 1)
        let apic = setup.apics[0]
        #expect(apic.readMSR(0x802) == nil)
        #expect(!apic.writeMSR(0x80B, 0))
        setup.enterX2APIC()
        #expect(apic.readMSR(0x80F) == 0x1FF)
        #expect(apic.register(0x30) == 0xFFFF_FFFF)
        apic.set(0xF0, 0)
        #expect(apic.readMSR(0x80F) == 0x1FF)
    }

    @Test(
        arguments: [
            (0x802, 0), (0x803, 0), (0x80A, 0), (0x80D, 1), (0x80E, 0), (0x808, 0x100), (0x80B, 1),
            (0x80F, 0x2000),
            (0x810, 0), (0x828, 1), (0x829, 0), (0x82F, 0x10000), (0x830, 1 << 13), (0x830, 1 << 20),
            (0x831, 0),
            (0x832, 1 << 19), (0x837, 0x700), (0x838, 1 << 32), (0x839, 0), (0x83E, 4), (0x83F, 0x100),
            (0x840, 0),
            (0x8FF, 0), (0x7FF, 0), (0x900, 0),
        ] as [(UInt32, UInt64)])
    func `reserved x2APIC registers and bits raise a general protection fault`(number: UInt32, value: UInt64)
    {
        let setup = APICBench(count: 1)
        setup.enterX2APIC()
        #expect(!setup.apics[0].writeMSR(number, value))
    }

    @Test func `a self IPI is an edge to this processor`() {
        let setup = APICBench(count: 2)
        setup.enterX2APIC()
        #expect(setup.apics[1].writeMSR(0x83F, 0x77))
        #expect(setup.pending(0x77) == [1])
        #expect(setup.apics[1].readMSR(0x83F) == nil)
    }

    @Test func `narrow and misplaced accesses of the page do no harm`() {
        let setup = APICBench(count: 1)
        let apic = setup.apics[0]
        apic.writePage(offset: 0xF1, width: .dword, value: 0)
        apic.writePage(offset: 0xF0, width: .byte, value: 0)
        #expect(apic.register(0xF0) == 0x1FF)
        #expect(apic.readPage(offset: 0xF1, width: .byte) == 1)
        #expect(apic.readPage(offset: 0xF4, width: .dword) == 0)
        #expect(apic.readPage(offset: 0xFFC, width: .dword) == 0)
    }

    @Test func `a refused state leaves an error`() {
        let setup = APICBench(count: 1)
        let apic = setup.apics[0]
        for change: (inout LocalAPIC.Saved) -> Void in [
            { $0.requested[0] = 1 }, { $0.inService = [] }, { $0.localVectors[0] = 1 << 30 },
            { $0.base = 0x400 }, { $0.base |= 1 }, { $0.pins = [] }, { $0.signals = 0x10 },
            { $0.command = 1 << 21 }, { $0.divideConfiguration = 4 }, { $0.spuriousVector = 1 << 31 },
        ] {
            var saved = apic.save()
            change(&saved)
            #expect(throws: RestoreError.self) { try apic.restore(saved) }
        }
    }

    @Test func `a storm of signals keeps one of each`() {
        let setup = APICBench(count: 2)
        for vector in 0..<200 as Range<UInt32> {
            setup.apics[0].command(0x4500, to: 1)
            setup.apics[0].command(0x0600 | vector, to: 1)
        }
        #expect(setup.apics[1].takeSignal() == .initialize)
        #expect(setup.apics[1].takeSignal() == .startup(vector: 199))
        #expect(setup.apics[1].takeSignal() == nil)
    }
}

@Suite struct ChipsetAPICTimerTests {
    private func makeTimer(_ entry: UInt32, divide: UInt32 = 0xB) -> (APICBench, LocalAPIC) {
        let setup = APICBench(count: 1)
        setup.apics[0].set(0x3E0, divide)
        setup.apics[0].set(0x320, entry)
        setup.complex.wakes.take()
        return (setup, setup.apics[0])
    }

    @Test(
        arguments: [(0xB, 1), (0x0, 2), (0x1, 4), (0x2, 8), (0x3, 16), (0x8, 32), (0x9, 64), (0xA, 128)]
            as [(UInt32, UInt64)])
    func `the divide configuration slows the count`(code: UInt32, divisor: UInt64) {
        let (setup, apic) = makeTimer(0xEC, divide: code)
        apic.set(0x380, 1000)
        setup.bench.clock.advance(by: 250 * divisor)
        #expect(apic.register(0x390) == 750)
        setup.bench.clock.advance(by: 750 * divisor - 1)
        #expect(apic.pendingVector() == nil)
        setup.bench.clock.advance(by: 1)
        #expect(apic.acknowledge() == 0xEC)
        #expect(apic.register(0x390) == 0)
        #expect(setup.bench.clock.armedCount == 0)
    }

    @Test func `a periodic timer fires again and again`() {
        let (setup, apic) = makeTimer(0x200EC)
        apic.set(0x380, 1_000_000)
        for _ in 0..<5 {
            setup.bench.clock.advance(by: 1_000_000)
            #expect(apic.acknowledge() == 0xEC)
            apic.endOfInterrupt()
        }
        setup.bench.clock.advance(by: 400_000)
        #expect(apic.register(0x390) == 600_000)
        apic.set(0x380, 0)
        #expect(setup.bench.clock.armedCount == 0)
    }

    @Test(arguments: [1, 2, 100] as [UInt32])
    func `tiny periods do not flood the host`(count: UInt32) {
        let (setup, apic) = makeTimer(0x200EC)
        apic.set(0x380, count)
        setup.bench.clock.advance(by: 10_000_000)
        #expect(setup.bench.clock.firedCount <= 1_001)
        #expect(apic.pendingVector() == 0xEC)
    }

    @Test func `a masked timer counts silently`() {
        let (setup, apic) = makeTimer(0x100EC)
        apic.set(0x380, 1000)
        #expect(setup.bench.clock.armedCount == 0)
        setup.bench.clock.advance(by: 400)
        #expect(apic.register(0x390) == 600)
        apic.set(0x320, 0xEC)
        setup.bench.clock.advance(by: 600)
        #expect(apic.pendingVector() == 0xEC)
    }

    @Test func `a TSC deadline fires when the counter reaches it`() {
        let (setup, apic) = makeTimer(0x400EC)
        #expect(apic.writeMSR(0x6E0, 2_000_000))
        #expect(apic.readMSR(0x6E0) == 2_000_000)
        setup.bench.clock.advance(by: 999_999)
        #expect(apic.pendingVector() == nil)
        setup.bench.clock.advance(by: 2)
        #expect(apic.acknowledge() == 0xEC)
        #expect(apic.readMSR(0x6E0) == 0)
    }

    @Test func `a deadline in the past fires at once and zero disarms`() {
        let (setup, apic) = makeTimer(0x400EC)
        setup.bench.clock.advance(by: 1_000_000)
        #expect(apic.writeMSR(0x6E0, 5))
        #expect(apic.pendingVector() == 0xEC)
        #expect(setup.complex.wakes.all == [0])
        #expect(setup.bench.clock.armedCount == 0)
        #expect(apic.writeMSR(0x6E0, .max))
        #expect(setup.bench.clock.armedCount == 1)
        #expect(apic.writeMSR(0x6E0, 0))
        #expect(setup.bench.clock.armedCount == 0)
    }

    @Test func `the deadline register works in deadline mode only`() {
        let (setup, apic) = makeTimer(0x200EC)
        #expect(apic.writeMSR(0x6E0, 2_000_000))
        #expect(apic.readMSR(0x6E0) == 0)
        #expect(setup.bench.clock.armedCount == 0)
        apic.set(0x320, 0x400EC)
        apic.set(0x380, 1000)
        #expect(apic.register(0x380) == 0)
        #expect(apic.writeMSR(0x6E0, 2_000_000))
        apic.set(0x320, 0xEC)
        #expect(setup.bench.clock.armedCount == 0, "leaving the mode disarms")
    }

    @Test func `a restored timer fires by itself and wakes its processor`() throws {
        let (setup, apic) = makeTimer(0xEC)
        apic.set(0x380, 1_000_000)
        setup.bench.clock.advance(by: 400_000)
        let twin = APICBench(count: 1, softwareEnabled: false)
        twin.bench.clock.advance(by: 400_000)
        try twin.apics[0].restore(apic.save())
        twin.complex.wakes.take()
        twin.bench.clock.advance(by: 600_000)
        #expect(twin.complex.wakes.all == [0])
        #expect(twin.apics[0].pendingVector() == 0xEC)
    }

    @Test func `INIT stops the timer`() {
        let (setup, apic) = makeTimer(0x200EC)
        apic.set(0x380, 1000)
        apic.command(0x4500, to: 0)
        #expect(apic.takeSignal() == .initialize)
        #expect(setup.bench.clock.armedCount == 0)
    }
}

@Suite struct ChipsetIOAPICTests {
    private func makeComplex() -> (APICBench, IOAPIC) {
        let setup = APICBench(count: 2)
        return (setup, setup.complex.ioapic)
    }
    private func set(_ ioapic: IOAPIC, _ index: UInt64, _ value: UInt64) {
        ioapic.write(region: 0, offset: 0, width: .dword, value: index)
        ioapic.write(region: 0, offset: 0x10, width: .dword, value: value)
    }
    private func get(_ ioapic: IOAPIC, _ index: UInt64) -> UInt64 {
        ioapic.write(region: 0, offset: 0, width: .dword, value: index)
        return ioapic.read(region: 0, offset: 0x10, width: .dword)
    }
    private func route(_ ioapic: IOAPIC, _ pin: UInt64, _ low: UInt64, to destination: UInt64 = 0) {
        set(ioapic, 0x11 + pin * 2, destination << 24)
        set(ioapic, 0x10 + pin * 2, low)
    }

    @Test func `identification registers read as version 20h with 24 entries`() {
        let (_, ioapic) = makeComplex()
        #expect(get(ioapic, 1) == 0x0017_0020)
        set(ioapic, 0, 0xFF00_0000)
        #expect(get(ioapic, 0) == 0x0F00_0000)
        #expect(get(ioapic, 2) == 0x0F00_0000)
        #expect(get(ioapic, 0x10) == 0x10000)
        #expect(get(ioapic, 0x40) == 0)
        #expect(get(ioapic, 0xFF) == 0)
        #expect(ioapic.read(region: 0, offset: 0, width: .byte) == 0xFF)
    }

    @Test func `an edge is sent once to its destination`() {
        let (setup, ioapic) = makeComplex()
        route(ioapic, 4, 0x34, to: 1)
        ioapic.setLine(4, asserted: true)
        #expect(setup.pending(0x34) == [1])
        setup.clearAll()
        ioapic.setLine(4, asserted: true)
        #expect(setup.pending(0x34) == [])
        ioapic.setLine(4, asserted: false)
        ioapic.setLine(4, asserted: true)
        #expect(setup.pending(0x34) == [1])
    }

    @Test func `an edge on a masked input is lost and a level waits`() {
        let (setup, ioapic) = makeComplex()
        route(ioapic, 4, 0x10034)
        ioapic.setLine(4, asserted: true)
        route(ioapic, 4, 0x34)
        #expect(setup.pending(0x34) == [])
        route(ioapic, 5, 0x18035)
        ioapic.setLine(5, asserted: true)
        route(ioapic, 5, 0x8035)
        #expect(setup.pending(0x35) == [0])
    }

    @Test(arguments: [false, true])
    func `a level is sent again after each EOI until the wire falls`(byRegister: Bool) {
        let (setup, ioapic) = makeComplex()
        let apic = setup.apics[0]
        if byRegister { apic.set(0xF0, 0x11FF) }
        route(ioapic, 17, 0x8041)
        ioapic.setLine(17, asserted: true)
        #expect(get(ioapic, 0x10 + 34) == 0xC041)
        #expect(apic.acknowledge() == 0x41)
        #expect(apic.register(0x1A0) == 2)
        apic.endOfInterrupt()
        if byRegister {
            #expect(apic.pendingVector() == nil, "the broadcast is suppressed")
            ioapic.write(region: 0, offset: 0x40, width: .dword, value: 0x41)
        }
        #expect(apic.acknowledge() == 0x41)
        ioapic.setLine(17, asserted: false)
        apic.endOfInterrupt()
        ioapic.write(region: 0, offset: 0x40, width: .dword, value: 0x41)
        #expect(apic.pendingVector() == nil)
        #expect(get(ioapic, 0x10 + 34) == 0x8041)
    }

    @Test func `switching to edge clears remote IRR`() {
        let (_, ioapic) = makeComplex()
        route(ioapic, 17, 0x8041)
        ioapic.setLine(17, asserted: true)
        ioapic.setLine(17, asserted: false)
        set(ioapic, 0x10 + 34, 0x10041)
        set(ioapic, 0x10 + 34, 0x18041)
        #expect(get(ioapic, 0x10 + 34) == 0x18041)
    }

    @Test func `nonexistent processors and pins are nobody`() {
        let (setup, ioapic) = makeComplex()
        route(ioapic, 4, 0x34, to: 77)
        for pin in [-1, 4, 24, 1000] { ioapic.setLine(pin, asserted: true) }
        #expect(setup.pending(0x34) == [])
    }

    @Test func `an entry can deliver an NMI`() {
        let (setup, ioapic) = makeComplex()
        route(ioapic, 2, 0x400, to: 1)
        ioapic.setLine(2, asserted: true)
        #expect(setup.apics[1].takeSignal() == .nmi)
    }

    @Test func `a saved entry with reserved bits is refused`() {
        let (_, ioapic) = makeComplex()
        var saved = ioapic.save()
        saved.entries[3] |= 1 << 40
        #expect(throws: RestoreError.self) { try ioapic.restore(saved) }
        saved = ioapic.save()
        saved.pins = 1 << 24
        #expect(throws: RestoreError.self) { try ioapic.restore(saved) }
    }
}

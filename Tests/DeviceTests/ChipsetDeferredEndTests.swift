import DeviceModel
import TestKit
import Testing

@testable import ChipsetDevices

/// Ends of interrupts that the guest notes in its own memory.
@Suite struct ChipsetDeferredEndTests {
    private let setup = APICBench(count: 1)
    private var apic: LocalAPIC { setup.apics[0] }

    private func take(_ vector: UInt8, isLevel: Bool = false) {
        apic.receive(.fixed, vector, isLevel: isLevel)
        #expect(apic.acknowledge() == vector)
    }

    @Test func `a lone edge may end unheard, a level may not`() {
        take(0x40)
        #expect(apic.deferEndOfInterrupt())
        apic.endOfInterrupt()
        take(0x41, isLevel: true)
        #expect(!apic.deferEndOfInterrupt())
    }

    @Test func `nothing may while another interrupt waits or is in service beneath`() {
        apic.receive(.fixed, 0x30, isLevel: false)
        take(0x40)
        #expect(!apic.deferEndOfInterrupt())
        apic.endOfInterrupt()
        #expect(apic.acknowledge() == 0x30)
        take(0x50)
        #expect(!apic.deferEndOfInterrupt())
        #expect(!apic.wantsEndOfInterrupt)
    }

    @Test(arguments: [0x30, 0x50] as [UInt8])
    func `the next interrupt, of any priority, wakes the vCPU and waits for the end`(next: UInt8) {
        take(0x40)
        #expect(apic.deferEndOfInterrupt())
        #expect(!apic.wantsEndOfInterrupt)
        apic.receive(.fixed, next, isLevel: false)
        #expect(apic.wantsEndOfInterrupt)
        #expect(apic.acknowledge() == nil)
        apic.endOfInterrupt()
        #expect(!apic.wantsEndOfInterrupt)
        #expect(apic.acknowledge() == next)
    }

    @Test func `an interrupt that did not end stays in service`() {
        take(0x40)
        #expect(apic.deferEndOfInterrupt())
        apic.receive(.fixed, 0x30, isLevel: false)
        apic.keepInService()
        #expect(apic.acknowledge() == nil)
        apic.receive(.fixed, 0x50, isLevel: false)
        #expect(apic.acknowledge() == 0x50)
        apic.endOfInterrupt()
        apic.endOfInterrupt()
        #expect(apic.acknowledge() == 0x30)
    }

    @Test func `a reset and a restored state know of no deferral`() throws {
        take(0x40)
        #expect(apic.deferEndOfInterrupt())
        let saved = apic.save()
        try apic.restore(saved)
        apic.receive(.fixed, 0x50, isLevel: false)
        #expect(apic.acknowledge() == 0x50)
        apic.reset()
        #expect(!apic.wantsEndOfInterrupt)
    }
}

@testable import KVMEngine
import Testing
import VCPUEngine

/// How a debugger's stops become debug registers; no KVM is needed.
@Suite struct HardwareStopTests {
    private typealias Control = HardwareStops.Control

    private func stops(
        _ breakpoints: Set<UInt64> = [], _ watchpoints: [DebugStops.Watchpoint] = [], steps: Bool = false
    ) -> DebugStops {
        var stops = DebugStops()
        stops.breakpoints = breakpoints
        stops.watchpoints = watchpoints
        stops.stepsOnce = steps
        return stops
    }

    @Test func `no stops turn everything off`() throws {
        let hardware = try #require(HardwareStops(DebugStops()))
        #expect(hardware.control == 0)
        #expect(hardware.registers == [UInt64](repeating: 0, count: 8))
        #expect(hardware.stop(next: 0, dr6: 0xF) == nil)
    }

    @Test func `up to four stops are in debug registers, watchpoints first`() throws {
        let watchpoint = DebugStops.Watchpoint(address: 0x2000, length: 8, access: .write)
        let hardware = try #require(HardwareStops(stops([0x1000, 0x3000], [watchpoint])))
        #expect(hardware.control == Control.enable | Control.useRegisters)
        #expect(Array(hardware.registers[0..<4]) == [0x2000, 0x1000, 0x3000, 0])
        // G0 to G2, bit 10; DR0: RW 01, LEN 10.
        #expect(hardware.registers[7] == 0x9_042A)
        #expect(hardware.stop(next: 0x55, dr6: 1) == .watchpoint(watchpoint))
        #expect(hardware.stop(next: 0x1000, dr6: 2) == .breakpoint)
    }

    @Test func `more breakpoints are looked for after each instruction`() throws {
        let hardware = try #require(HardwareStops(stops([1, 2, 3, 4, 5])))
        #expect(hardware.control == Control.enable | Control.singleStep)
        #expect(hardware.stop(next: 5, dr6: 1 << 14) == .breakpoint)
        #expect(hardware.stop(next: 6, dr6: 1 << 14) == nil)
    }

    @Test func `a step blocks interrupts and ends whatever comes`() throws {
        let hardware = try #require(HardwareStops(stops(steps: true)))
        #expect(hardware.control == Control.enable | Control.singleStep | Control.blockInterrupts)
        #expect(hardware.stop(next: 6, dr6: 1 << 14) == .stepped)
    }

    @Test func `bytes that no debug register can watch are refused`() {
        let odd = DebugStops.Watchpoint(address: 0x1001, length: 4, access: .write)
        let long = DebugStops.Watchpoint(address: 0x1000, length: 16, access: .any)
        #expect(HardwareStops(stops([], [odd])) == nil)
        #expect(HardwareStops(stops([], [long])) == nil)
        let five = (0..<5).map { DebugStops.Watchpoint(address: $0 * 8, length: 8, access: .any) }
        #expect(HardwareStops(stops([], five)) == nil)
    }
}

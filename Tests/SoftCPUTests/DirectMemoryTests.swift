import LinuxHost
import Testing

@testable import SoftCPU

/// Device memory that a vCPU reaches without asking the device.
@Suite struct DirectMemoryTests {
    private static let linear: UInt64 = 0xFFFF_FFFF_8000_0000, physical: UInt64 = 0x4000_0000
    /// 1: mov ecx, 1000; 2: mov [rbx], ecx; mov eax, [rbx]; dec ecx; jnz 2b; out F4h, al; jmp 1b
    private static let loop: [UInt8] = [
        0xB9, 0xE8, 0x03, 0, 0, 0x89, 0x0B, 0x8B, 0x03, 0xFF, 0xC9, 0x75, 0xF8, 0xE6, 0xF4, 0xEB, 0xEF,
    ]

    /// A machine with one page of device memory, at `linear`, which runs `loop` each time.
    private func machine(_ page: MemoryMapping, threshold: UInt16) throws -> TestMachine {
        let machine = try TestMachine(.long64, threshold: threshold)
        machine.platform.stopped = machine.vcpu
        machine.store(0x4FF8, 0x9003)
        machine.store(0x9000 + 510 * 8, 0xA003)
        machine.store(0xA000, 0xB003)
        machine.store(0xB000, Self.physical | 3)
        machine.write(TestMachine.code, Self.loop)
        machine.set(Register.rbx, Self.linear)
        machine.platform.direct.withLock { $0[Self.physical] = unsafe UInt(bitPattern: page.base) }
        return machine
    }

    /// By the interpreter alone, and translated.
    @Test(arguments: [UInt16.max, 1])
    func `a loop asks once for a page, again after it gave it up, and the device when there is none`(
        _ threshold: UInt16
    ) throws {
        let page = try MemoryMapping(anonymous: 4096)
        let machine = try machine(page, threshold: threshold)
        #expect(machine.vcpu.run() == .requested)
        #expect(unsafe page.base.load(as: UInt32.self) == 1)
        #expect(machine.get(Register.rax) == 1)
        #expect(machine.platform.asked.withLock { $0 } == (0, 1, 0))

        machine.vcpu.giveUpDirectMemory(1)
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.vcpu.directHeeded.load(ordering: .relaxed) == 1)
        #expect(machine.platform.asked.withLock { $0 } == (0, 2, 0))

        machine.platform.direct.withLock { $0 = [:] }
        unsafe page.base.storeBytes(of: 77, as: UInt32.self)
        machine.vcpu.giveUpDirectMemory(2)
        #expect(machine.vcpu.run() == .requested)
        #expect(unsafe page.base.load(as: UInt32.self) == 77)
        #expect(machine.platform.asked.withLock { $0 } == (0, 2, 2000))

        // Where there was none may be some from now on.
        machine.platform.direct.withLock { $0[Self.physical] = unsafe UInt(bitPattern: page.base) }
        machine.vcpu.giveUpDirectMemory(3)
        #expect(machine.vcpu.run() == .requested)
        #expect(unsafe page.base.load(as: UInt32.self) == 1)
        #expect(machine.platform.asked.withLock { $0 } == (0, 3, 2000))
    }

    @Test func `a page that was loaded from asks before it is stored to`() throws {
        let page = try MemoryMapping(anonymous: 4096)
        let machine = try machine(page, threshold: 1)
        // mov eax, [rbx]; mov [rbx], ecx; mov eax, [rbx]; out F4h, al; jmp to itself
        machine.write(TestMachine.code, [0x8B, 0x03, 0x89, 0x0B, 0x8B, 0x03, 0xE6, 0xF4, 0xEB, 0xFE])
        machine.set(Register.rcx, 42)
        #expect(machine.vcpu.run() == .requested)
        let asked = machine.platform.asked.withLock { $0 }
        #expect(asked.stores == 1 && asked.accesses == 0 && machine.get(Register.rax) == 42)
    }
}

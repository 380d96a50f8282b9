import ByteLayout
import GuestMemory
import Testing
import X86Architecture

@testable import BootLoaders

func testMemory(mebibytes: UInt64 = 64) -> GuestMemory {
    try! GuestMemory(GuestMemory.pcLayout(ram: mebibytes << 20))
}

@Suite struct LinuxLoaderTests {
    @Test func `a 64-bit bzImage gets long mode, its tables and its zero page`() throws {
        let memory = testMemory()
        var request = BootRequest(
            kernel: SampleKernel.bzImage(), initrd: [UInt8](repeating: 0xA5, count: 5000),
            commandLine: "console=ttyS0")
        request.rsdp = GuestAddress(0xE0000)
        let plan = try KernelImage.load(request, into: memory)
        #expect(plan.bootProtocol == .linux64)
        #expect(plan.entryPoint.raw == 0x100_0200 && plan.state.rip == 0x100_0200)
        #expect(try memory.bytes(GuestAddress(0x100_0000), count: 4096) == SampleKernel.codeBytes)

        let zeroPage = try memory.bytes(GuestAddress(plan.state.gpr[6]), count: 4096)
        #expect(zeroPage[0x210] == 0xFF && zeroPage[0x1EF] == 0)
        #expect(zeroPage.load(littleEndian: UInt16.self, at: 0x206) == 0x020F)
        #expect(zeroPage.load(littleEndian: UInt64.self, at: 0x70) == 0xE0000)
        #expect(zeroPage.load(littleEndian: UInt64.self, at: 0x250) == 0, "setup_data of the file is dropped")
        let initrd = try #require(zeroPage.load(littleEndian: UInt32.self, at: 0x218))
        #expect(initrd == 0x400_0000 - 0x2000, "as high as RAM goes, page aligned")
        #expect(zeroPage.load(littleEndian: UInt32.self, at: 0x21C) == 5000)
        #expect(try memory.load(UInt8.self, at: GuestAddress(UInt64(initrd) + 4999)) == 0xA5)
        let line = try #require(zeroPage.load(littleEndian: UInt32.self, at: 0x228))
        #expect(try memory.bytes(GuestAddress(UInt64(line)), count: 14) == Array("console=ttyS0".utf8) + [0])
        #expect(Int(zeroPage[0x1E8]) == plan.memoryMap.entries.count)
        #expect(zeroPage.load(littleEndian: UInt64.self, at: 0x2D0 + 8) == 0x9_FC00)
    }

    @Test func `the long-mode state is what the protocol demands`() throws {
        let memory = testMemory()
        let state = try KernelImage.load(BootRequest(kernel: SampleKernel.bzImage()), into: memory).state
        #expect(state.efer == 0x500 && state.cr4 & 0x20 != 0 && state.cr0 & 0x8000_0001 == 0x8000_0001)
        #expect(state.rflags == 2)
        #expect(state.segments[1].selector == 0x10 && state.segments[1].attributes == 0xA09B)
        for index in [0, 2, 3] {
            #expect(state.segments[index].selector == 0x18 && state.segments[index].attributes == 0xC093)
        }
        #expect(
            try memory.load(UInt64.self, at: GuestAddress(state.gdtr.base + 0x10)) == 0x00AF_9B00_0000_FFFF)
        #expect(
            try memory.load(UInt64.self, at: GuestAddress(state.gdtr.base + 0x18)) == 0x00CF_9300_0000_FFFF)
        // Walk the page tables for addresses all over the first 4 GiB.
        for address in stride(from: UInt64(0), to: 1 << 32, by: 0x0FE4_3210) {
            let mask: UInt64 = 0x000F_FFFF_FFFF_F000
            let root = try memory.load(UInt64.self, at: GuestAddress(state.cr3 + (address >> 39) * 8))
            let pointer = try memory.load(
                UInt64.self, at: GuestAddress((root & mask) + (address >> 30 & 511) * 8))
            let leaf = try memory.load(
                UInt64.self, at: GuestAddress((pointer & mask) + (address >> 21 & 511) * 8))
            #expect(root & 3 == 3 && pointer & 3 == 3 && leaf & 0x83 == 0x83)
            #expect(leaf & ~0x1F_FFFF == address & ~0x1F_FFFF)
        }
    }

    @Test func `a bzImage without a 64-bit entry starts in flat 32-bit mode`() throws {
        let kernel = SampleKernel.bzImage(entry64: false) { $0[0x234] = 0 }
        let plan = try KernelImage.load(BootRequest(kernel: kernel), into: testMemory())
        #expect(plan.bootProtocol == .linux32)
        #expect(plan.entryPoint.raw == 0x100_0000)
        #expect(plan.state.cr0 == 0x11 && plan.state.efer == 0 && plan.state.cr4 == 0)
        #expect(plan.state.segments[1].attributes == 0xC09B && plan.state.segments[1].limit == .max)
        #expect(plan.state.gpr[6] == PlacementMap.LowMemory.information)
    }

    @Test func `a protocol before 2.10 loads at 1 MiB`() throws {
        let kernel = SampleKernel.bzImage(entry64: false, version: 0x0204)
        let plan = try KernelImage.load(BootRequest(kernel: kernel), into: testMemory())
        #expect(plan.entryPoint.raw == 0x10_0000)
    }

    @Test func `a hook in code32_start moves with the code`() throws {
        let kernel = SampleKernel.bzImage(entry64: false) {
            $0.store(littleEndian: UInt32(0x10_0040), at: 0x214)
        }
        #expect(
            try KernelImage.load(BootRequest(kernel: kernel), into: testMemory()).entryPoint.raw == 0x100_0040
        )
    }

    @Test func `setup_sects 0 means 4`() throws {
        let kernel = SampleKernel.bzImage { file in
            file[0x1F1] = 0
            file.insert(contentsOf: [UInt8](repeating: 0xEE, count: 1024), at: 3 * 512)
        }
        let memory = testMemory()
        _ = try KernelImage.load(BootRequest(kernel: kernel), into: memory)
        #expect(try memory.bytes(GuestAddress(0x100_0000), count: 4096) == SampleKernel.codeBytes)
    }

    @Test func `the initrd stays below initrd_addr_max and off the kernel`() throws {
        let kernel = SampleKernel.bzImage { $0.store(littleEndian: UInt32(0x107_FFFF), at: 0x22C) }
        let plan = try KernelImage.load(
            BootRequest(kernel: kernel, initrd: [UInt8](repeating: 1, count: 100_000)), into: testMemory())
        let initrd = try #require(plan.placements.first { $0.part == "initrd" })
        #expect(initrd.end <= 0x100_0000 && initrd.start.raw >= 0x10_0000)
    }

    @Test func `a text screen is announced only when there is one`() throws {
        for screen in [false, true] {
            let memory = testMemory()
            var request = BootRequest(kernel: SampleKernel.bzImage())
            request.hasTextScreen = screen
            let plan = try KernelImage.load(request, into: memory)
            #expect(
                try memory.load(UInt8.self, at: GuestAddress(plan.state.gpr[6] + 0xF)) == (screen ? 1 : 0))
        }
    }

    @Test func `memory above the hole reaches the kernel's map`() throws {
        let map = MemoryMap(testMemory(mebibytes: 5 << 10))
        #expect(map.entries.last == MemoryMap.Entry(start: 1 << 32, size: 2 << 30, kind: .ram))
        #expect(map.entries.filter { $0.kind == .ram }.map(\.start) == [0, 0x10_0000, 1 << 32])
        #expect(map.isRAM(0x10_0000, size: 0xBFF0_0000) && !map.isRAM(0x10_0000, size: 0xBFF0_0001))
        #expect(!map.isRAM(.max, size: 2) && !map.isRAM(0x9_FBFF, size: 2))
        #expect(map.kibibytesAboveOneMebibyte == 0xBFF0_0000 >> 10)
    }
}

@Suite struct PVHLoaderTests {
    @Test(arguments: [true, false])
    func `an ELF kernel with the note starts in flat 32-bit mode`(is64Bit: Bool) throws {
        let memory = testMemory()
        var request = BootRequest(
            kernel: SampleKernel.pvh(is64Bit: is64Bit), initrd: [9, 8, 7], commandLine: "quiet")
        request.modules = [.init(file: [5], commandLine: "second")]
        request.rsdp = GuestAddress(0xF0000)
        // What a previous boot left in the kernel's uninitialised data must be gone.
        try memory.store(UInt64.max, at: GuestAddress(0x100_1FF8))
        try memory.store(UInt64.max, at: GuestAddress(0x100_2FF8))
        let plan = try KernelImage.load(request, into: memory)
        #expect(plan.bootProtocol == .pvh && plan.state.rip == 0x100_0010 && plan.state.cr0 == 0x11)
        #expect(try memory.bytes(GuestAddress(0x100_0000), count: 4096) == SampleKernel.codeBytes)
        #expect(try memory.bytes(GuestAddress(0x100_1000), count: 0x2000).allSatisfy { $0 == 0 })

        let info = try memory.bytes(GuestAddress(plan.state.gpr[3]), count: 56)
        #expect(info.load(littleEndian: UInt32.self, at: 0) == 0x336E_C578)
        #expect(info.load(littleEndian: UInt32.self, at: 4) == 1)
        #expect(info.load(littleEndian: UInt32.self, at: 12) == 2)
        #expect(info.load(littleEndian: UInt64.self, at: 32) == 0xF0000)
        let modules = try #require(info.load(littleEndian: UInt64.self, at: 16))
        let first = try memory.load(UInt64.self, at: GuestAddress(modules))
        #expect(try memory.bytes(GuestAddress(first), count: 3) == [9, 8, 7])
        let text = try memory.load(UInt64.self, at: GuestAddress(modules + 32 + 16))
        #expect(try memory.bytes(GuestAddress(text), count: 7) == Array("second".utf8) + [0])
        let table = try #require(info.load(littleEndian: UInt64.self, at: 40))
        let count = try #require(info.load(littleEndian: UInt32.self, at: 48))
        #expect(Int(count) == plan.memoryMap.entries.count)
        #expect(try memory.load(UInt64.self, at: GuestAddress(table + 8)) == 0x9_FC00)
    }

    @Test func `a four-byte note is as good as an eight-byte one`() throws {
        let kernel = SampleKernel.pvh(
            notes: SampleKernel.note(descriptor: SampleKernel.bytes(0x100_0400, count: 4)))
        #expect(
            try KernelImage.load(BootRequest(kernel: kernel), into: testMemory()).entryPoint.raw == 0x100_0400
        )
    }
}

@Suite struct MultibootLoaderTests {
    @Test func `an ELF image gets the magic, the information and its module`() throws {
        let memory = testMemory()
        let plan = try KernelImage.load(
            BootRequest(kernel: SampleKernel.multibootELF(), initrd: [1, 2], commandLine: "a b"), into: memory
        )
        #expect(plan.bootProtocol == .multiboot && plan.state.gpr[0] == 0x2BAD_B002)
        #expect(plan.state.rip == 0x40_0020)
        let info = try memory.bytes(GuestAddress(plan.state.gpr[3]), count: 116)
        func field(_ offset: Int) -> UInt64 { UInt64(info.load(littleEndian: UInt32.self, at: offset) ?? 0) }
        #expect(field(0) == 0x24D && field(4) == 639 && field(8) == 63 << 10)
        #expect(try memory.bytes(GuestAddress(field(16)), count: 11) == Array("kernel a b".utf8) + [0])
        #expect(field(20) == 1)
        let start = try memory.load(UInt32.self, at: GuestAddress(field(24)))
        let end = try memory.load(UInt32.self, at: GuestAddress(field(24) + 4))
        #expect(end - start == 2 && start % 4096 == 0)
        #expect(try memory.bytes(GuestAddress(UInt64(start)), count: 2) == [1, 2])
        #expect(field(44) == UInt64(24 * plan.memoryMap.entries.count))
        #expect(try memory.load(UInt32.self, at: GuestAddress(field(48))) == 20)
    }

    /// What each kind of vector begins with, at 9FC1:offset.
    @Test(arguments: [(0x00, 0xCF), (0x08, 0x50), (0x0F, 0x50), (0x10, 0xCF), (0x70, 0x50), (0xFF, 0xCF)])
    func `real-mode vectors lead to routines that return`(vector: UInt64, first: UInt8) throws {
        let memory = testMemory()
        _ = try KernelImage.load(BootRequest(kernel: SampleKernel.multibootELF()), into: memory)
        let entry = try memory.load(UInt32.self, at: GuestAddress(vector * 4))
        #expect(entry >> 16 == 0x9FC1)
        let code = try memory.bytes(GuestAddress(0x9_FC10 + UInt64(entry & 0xFFFF)), count: 32)
        #expect(code[0] == first)
        #expect(code.contains(0xCF))
    }

    @Test func `an image with address fields lies where they say`() throws {
        let memory = testMemory()
        let file = SampleKernel.multibootFlat()
        let plan = try KernelImage.load(BootRequest(kernel: file), into: memory)
        #expect(plan.entryPoint.raw == 0x20_0040)
        #expect(try memory.bytes(GuestAddress(0x20_0000), count: file.count - 64) == Array(file[64...]))
    }

    @Test func `a 64-bit ELF with both headers is entered by PVH`() throws {
        let kernel = SampleKernel.pvh(
            extra: [.init(address: 0x200_0000, bytes: SampleKernel.multibootHeader(flags: 3))])
        #expect(try KernelImage.recognize(kernel) == .pvh)
        #expect(try KernelImage.recognize(SampleKernel.multibootELF()) == .multiboot)
    }

    @Test func `RAM that is populated keeps what is in it, and other ranges are left alone`() throws {
        let memory = testMemory()
        let places: [UInt64] = [0x1FF_FFF0, 0x200_0000, 0x3FF_FFF8]
        for place in places { try memory.store(place ^ 0x55, at: GuestAddress(place)) }
        memory.populate(GuestAddress(0x1FF_F123), count: 0x20_0000)
        memory.populate(GuestAddress(0x300_0000), count: 0x100_0000)
        memory.populate(GuestAddress(0x300_0000), count: 0x100_0001)
        memory.populate(GuestAddress(.max), count: .max)
        for count in [0, -1, .min] { memory.populate(GuestAddress(0), count: count) }
        for place in places {
            #expect(try memory.load(UInt64.self, at: GuestAddress(place)) == place ^ 0x55)
        }
        #expect(try memory.load(UInt64.self, at: GuestAddress(0x300_0000)) == 0)
    }
}

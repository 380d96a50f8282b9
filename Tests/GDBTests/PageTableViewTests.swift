import Testing
import X86Architecture

/// Walks of page tables that lie in a dictionary of words.
@Suite struct PageTableViewTests {
    private func look(
        _ linear: UInt64, cr0: UInt64 = CR0.paging, cr4: UInt64 = 0, efer: UInt64 = 0,
        _ words: [UInt64: UInt64]
    ) -> UInt64? {
        var state = VCPUState()
        (state.cr0, state.cr3, state.cr4, state.efer) = (cr0, 0x1000, cr4, efer)
        return PageTableView(state).physical(linear) { address, _ in words[address] }
    }

    @Test func `without paging addresses are themselves`() {
        #expect(look(0x1234_5678, cr0: 0, [:]) == 0x1234_5678)
    }

    @Test func `4-level paging has pages of 4 KiB, 2 MiB and 1 GiB`() {
        let linear: UInt64 = 0xFFFF_8123_4567_89AB
        let top: UInt64 = 0x1000 + 8 * (linear >> 39 & 511)
        let third: UInt64 = 0x2000 + 8 * (linear >> 30 & 511)
        let second: UInt64 = 0x3000 + 8 * (linear >> 21 & 511),
            first: UInt64 = 0x4000 + 8 * (linear >> 12 & 511)
        func long(_ words: [UInt64: UInt64]) -> UInt64? {
            look(linear, cr4: CR4.physicalAddressExtension, efer: EFER.longModeActive, words)
        }
        let small = [top: 0x2001, third: 0x3001, second: 0x4001, first: 0x8000_0000_00AB_C001 as UInt64]
        #expect(long(small) == 0xAB_C9AB, "no right, accessed bit or no-execute bit counts")
        #expect(long([top: 0x2001, third: 0x3001, second: 0x4020_0081]) == 0x4020_0000 | linear & 0x1F_FFFF)
        #expect(long([top: 0x2001, third: 0x8000_0081]) == 0x8000_0000 | linear & 0x3FFF_FFFF)
        #expect(long([top: 0x2001, third: 0x3001, second: 0x4001, first: 0]) == nil)
        #expect(long([:]) == nil, "tables outside memory")
    }

    @Test func `an address that is not canonical leads nowhere`() {
        let everything = Dictionary(
            uniqueKeysWithValues: (0..<1024 as Range<UInt64>).map { (0x1000 + 8 * $0, 0x1083 as UInt64) })
        let result = look(
            0x8000_0000_0000, cr4: CR4.physicalAddressExtension, efer: EFER.longModeActive, everything)
        #expect(result == nil)
    }

    @Test func `PAE and 32-bit paging`() {
        #expect(
            look(
                0x4020_1234, cr4: CR4.physicalAddressExtension,
                [0x1008: 0x2001, 0x2008: 0x3001, 0x3008: 0x5001])
                == 0x5234)
        #expect(look(0x0040_1234, [0x1004: 0x2001, 0x2004: 0x7001]) == 0x7234)
        #expect(look(0x0040_1234, cr4: CR4.pageSizeExtensions, [0x1004: 0x80_2081]) == 0x1_0080_1234)
        #expect(look(0x0040_1234, [0x1004: 0x2001, 0x2004: 0]) == nil)
    }
}

import GuestMemory
import Synchronization
import Testing

@testable import SoftCPU

/// Stores to a page that another vCPU begins to decode code from: each of them counts, sooner or later.
@Suite struct CodeAnnouncementTests {
    private static let page: UInt64 = 0x80000
    private static let index = 0x80

    /// One of two vCPUs, whose page at 400000h is the one at 0, too.
    private func machine() throws -> TestMachine {
        let machine = try TestMachine(.long64, vcpuCount: 2)
        machine.store(0x6010, 0x87)
        return machine
    }

    /// What the other vCPU does when it decodes code from the page.
    private static func decode(_ engine: SoftEngine) -> Bool {
        engine.markCode(index, page, from: 1).isNew
    }
    private func holdsCode(_ machine: TestMachine) -> Bool {
        machine.memory.pages.word(Self.index) & PageMap.codeBit != 0
    }

    /// Stores by a permission that the vCPU has from before.
    private func storeUnnoticed(_ machine: TestMachine) throws {
        for address in [Self.page, Self.page + 8] { _ = try machine.cpu.writableHost(address, 8) }
        #expect(Self.decode(machine.engine))
        _ = try machine.cpu.writableHost(Self.page, 8)
        #expect(holdsCode(machine), "the permission was gone before anybody announced anything")
    }

    @Test func `a store since the mark counts when the announcement is heeded`() throws {
        let machine = try machine()
        try storeUnnoticed(machine)
        machine.vcpu.heedAnnouncements()
        #expect(!holdsCode(machine))
    }

    @Test func `a mark without a store since stays`() throws {
        let machine = try machine()
        #expect(Self.decode(machine.engine))
        machine.vcpu.heedAnnouncements()
        machine.cpu.flushTLB()
        #expect(holdsCode(machine))
    }

    enum Drop: CaseIterable { case everything, page, otherPage }

    @Test(arguments: Drop.allCases)
    func `a store counts when its permission is dropped before`(_ drop: Drop) throws {
        let machine = try machine()
        try storeUnnoticed(machine)
        switch drop {
        case .everything: machine.cpu.flushTLB()
        case .page: machine.cpu.flushPage(Self.page)
        case .otherPage:
            // The same place in the cache.
            let other = Self.page + UInt64(TLB.entries) << 12
            try #require(other == Self.page + 0x40_0000)
            _ = try machine.cpu.fillPage(other, 8, write: false)
        }
        #expect(!holdsCode(machine))
        machine.vcpu.heedAnnouncements()
        #expect(!holdsCode(machine))
    }

    @Test func `a store counts among more announcements than are kept`() throws {
        let machine = try machine()
        try storeUnnoticed(machine)
        for page in 0..<100 as Range<Int> {
            _ = machine.engine.markCode(0x100 + page, UInt64(0x100 + page) << 12, from: 1)
        }
        machine.vcpu.heedAnnouncements()
        #expect(!holdsCode(machine))
        #expect(machine.memory.pages.word(0x100) & PageMap.codeBit != 0)
    }

    /// The other vCPU decodes once more, as soon as the store is noted.
    @Test func `a store that is noted before it is done counts after a new mark`() throws {
        let machine = try machine()
        #expect(Self.decode(machine.engine))
        let marks = Atomic<Int>(0), engine = machine.engine
        machine.memory.pages.onCodeStore { _ in
            if marks.load(ordering: .relaxed) == 0, Self.decode(engine) {
                marks.store(1, ordering: .relaxed)
            }
        }
        _ = try machine.cpu.writableHost(Self.page, 8)
        #expect(marks.load(ordering: .relaxed) == 1 && holdsCode(machine))
        machine.vcpu.heedAnnouncements()
        #expect(!holdsCode(machine))
    }
}

import LinuxHost

/// Where a page of guest code is executed, as far as translated code relies on it.
///
/// Code is translated for the linear address at which it was met ("placed"): addresses are constants, and a
/// return address costs nothing to find. A page that turns up at a second address, as those of shared
/// libraries do, is translated again for anywhere: such code finds the address of its page in
/// `NearState.codePage`. A kernel starts where it lies and goes on where it is mapped: in the upper
/// half a page may move a few times before that.
struct CodePlace: BitwiseCopyable {
    /// Linear address of the page, or `anywhere`.
    var linear: UInt64
    /// Guest-physical address of the page.
    var physical: UInt64

    static let anywhere: UInt64 = .max

    /// In the words behind an exit: the place's number above a page offset.
    static let offsetBits: UInt32 = 13
    static let most = 1 << (32 - Int(offsetBits))
    static func word(_ number: UInt32, _ offset: Int) -> Int32 {
        precondition((0..<1 << Int(offsetBits)).contains(offset), "an exit outside its page")
        return Int32(bitPattern: number << offsetBits | UInt32(offset))
    }
}

extension CPU {
    /// The place with a number, which a word behind an exit holds in its upper bits.
    @inline(__always) func place(ofWord word: UInt32) -> CodePlace {
        // SAFETY: the table has room for every number that fits above the offset, and lives as long as the
        // translated code.
        unsafe UnsafePointer<CodePlace>(bitPattern: s.translated.places).unsafelyUnwrapped[
            Int(word >> CodePlace.offsetBits)]
    }

    /// The key (`targetKey`) of the place that a word behind an exit holds.
    @inline(__always) func address(ofPlace word: UInt32) -> UInt64 {
        let page = place(ofWord: word).linear
        return (page == CodePlace.anywhere ? s.near.codePage : page)
            &+ UInt64(word & (1 << CodePlace.offsetBits - 1))
    }
}

/// The translated pages of one vCPU, and where their code is executed.
@safe struct TranslatedPages: ~Copyable {
    private struct Page {
        /// The first of its blocks; the others hang on `Block.nextOnPage`.
        var first: UInt = 0
        var place: UInt32
        /// Its branches to other pages may be linked: those of all its blocks, unless that has ended since.
        var linksPages: Bool
    }
    /// Why code of a page is given up: somebody stored to it, it is executed at another address, its branches
    /// to other pages may be linked now, or it is executed as segmented code, too.
    enum Change { case stored, moved, linkable, segmented }
    /// By the address of the page's word in the `PageMap`.
    private var pages: [UInt: Page] = [:]
    /// Blocks of other pages that end in a page, by the address of its word. Some may be forgotten by now.
    private var endingBlocks: [UInt: [UInt]] = [:]
    /// How often pages were met at another address than before.
    private var moves: [UInt: Int] = [:]
    /// After so many moves a kernel's code is translated for anywhere; a program's is after the first.
    private static let fewMoves = 4
    private let table: MemoryMapping
    private var used = 0

    init() throws(HostError) {
        table = try MemoryMapping(anonymous: CodePlace.most * MemoryLayout<CodePlace>.stride)
    }

    /// For `TranslatedState.places`.
    var tableAddress: UInt { unsafe UInt(bitPattern: table.base) }
    /// No number is left for the place of another page.
    var isFull: Bool { used == CodePlace.most }

    private func place(_ number: UInt32) -> CodePlace {
        unsafe table.base.assumingMemoryBound(to: CodePlace.self)[Int(number)]
    }

    /// The address that code of the page at `word` is translated for, if there is any.
    func linear(_ word: UInt) -> UInt64? { pages[word].map { place($0.place).linear } }

    /// Whether code of the page at `word` is translated, for another address than `linear`.
    func isElsewhere(_ word: UInt, _ linear: UInt64) -> Bool {
        guard let page = pages[word] else { return false }
        let place = place(page.place).linear
        return place != linear && place != CodePlace.anywhere
    }

    /// Whether code of the page at `word` is translated for one address only.
    func isPlaced(_ word: UInt) -> Bool {
        pages[word].map { place($0.place).linear != CodePlace.anywhere } ?? false
    }

    /// Whether code of the page at `word` was translated when its branches to other pages could not be
    /// linked. Blocks of one page lead to each other, so that either all of them may or none.
    func isUnlinkable(_ word: UInt) -> Bool {
        guard let page = pages[word] else { return false }
        return !page.linksPages && place(page.place).linear != CodePlace.anywhere
    }

    /// The number of the place of the page at `word`, which is about to be executed at `linear`, and the
    /// address that its code may rely on.
    mutating func place(
        _ word: UInt, physical: UInt64, linear: UInt64, linksPages: Bool, isSegmented: Bool
    ) -> (number: UInt32, linear: UInt64) {
        if let page = pages[word] { return (page.place, place(page.place).linear) }
        let number = UInt32(used)
        precondition(used < CodePlace.most, "the table of places is full")
        used += 1
        let few = linear >> 63 != 0 ? Self.fewMoves : 1
        let relied = isSegmented || moves[word, default: 0] >= few ? CodePlace.anywhere : linear
        // SAFETY: inside the mapping: `used` is bounded.
        unsafe table.base.assumingMemoryBound(to: CodePlace.self)[Int(number)] =
            CodePlace(linear: relied, physical: physical)
        pages[word] = Page(place: number, linksPages: linksPages)
        return (number, relied)
    }

    /// What is behind an exit to the first instruction of a listed block.
    func word(of block: BlockView) -> Int32 {
        guard let page = pages[block.b.pageWord] else { preconditionFailure("a page of a listed block") }
        return Self.word(page, block)
    }
    private static func word(_ page: Page, _ block: BlockView) -> Int32 {
        CodePlace.word(page.place, Int(block.b.physical & 0xFFF))
    }

    /// Whether any translated code comes from the page at `word`.
    func hasCode(_ word: UInt) -> Bool { (pages[word]?.first ?? 0) != 0 || endingBlocks[word] != nil }

    /// The number of the page's place, if it has one.
    func number(_ word: UInt) -> UInt32? { pages[word]?.place }

    /// Puts a block in the lists of its pages.
    mutating func list(_ block: BlockView) {
        if block.b.secondWord != 0 { endingBlocks[block.b.secondWord, default: []].append(block.address) }
        guard !block.b.isListed else { return }
        block.b.isListed = true
        block.b.nextOnPage = pages[block.b.pageWord]?.first ?? 0
        pages[block.b.pageWord]?.first = block.address
    }

    /// Takes all blocks of a page off the list; `each` sees every one that is translated, with what is behind
    /// an exit to its first instruction. A page that was stored to keeps its place.
    mutating func remove(_ word: UInt, _ change: Change, _ each: (BlockView, Int32) -> Void) {
        switch change {
        // A page without blocks may well hold another program by now.
        case .moved where hasCode(word): moves[word, default: 0] += 1
        case .linkable: break
        case .segmented: moves[word] = Self.fewMoves
        default: moves[word] = nil
        }
        for address in endingBlocks.removeValue(forKey: word) ?? [] {
            let block = BlockView(address: address)
            if block.b.code != 0 { each(block, self.word(of: block)) }
        }
        guard let page = pages[word] else { return }
        if change == .stored { pages[word]?.first = 0 } else { pages[word] = nil }
        var address = page.first
        while address != 0 {
            let block = BlockView(address: address)
            if block.b.code != 0 { each(block, Self.word(page, block)) }
            block.b.isListed = false
            address = block.b.nextOnPage
        }
    }

    /// Forgets all translated code. The table stays readable: code may still be on its way out.
    mutating func clear() {
        pages.removeAll(keepingCapacity: true)
        endingBlocks.removeAll(keepingCapacity: true)
        used = 0
    }
}

/// Direct branches between pages. They hold while the page that they lead to stays where it is mapped:
/// supervisor code only, whose mappings every address space shares.
struct FarLinks {
    private struct Target {
        /// Guest-physical page.
        var physical: UInt64
        /// Sites of branches, and what they lead to when they are not linked.
        var sites: [(site: UInt, stub: UInt)] = []
    }
    /// By the linear address of the page that they lead to.
    private var targets: [UInt64: Target] = [:]
    private(set) var made = 0
    private(set) var cuts = 0

    mutating func add(site: UInt, stub: UInt, linear: UInt64, physical: UInt64) {
        targets[linear, default: Target(physical: physical)].sites.append((site, stub))
        made += 1
    }

    /// Whether links to the page at `linear` lead to physical page `physical`, or there are none.
    func agrees(linear: UInt64, physical: UInt64) -> Bool {
        targets[linear].map { $0.physical == physical } ?? true
    }

    /// Cuts the links to one page.
    mutating func cut(_ linear: UInt64, _ arena: borrowing CodeArena) {
        guard let target = targets.removeValue(forKey: linear) else { return }
        cuts += target.sites.count
        for link in target.sites { arena.patch(link.site, target: link.stub) }
    }

    /// Cuts the links to pages that are not where they were; `place` says where a page is now.
    mutating func check(_ arena: borrowing CodeArena, _ place: (UInt64) -> UInt64?) {
        for (linear, target) in targets where place(linear) != target.physical { cut(linear, arena) }
    }

    mutating func forgetAll() { targets.removeAll(keepingCapacity: true) }
}

import GuestMemory
import LinuxHost

/// Which 64 bytes of a page hold code, for machines with one vCPU: programs of 16 bits have their data and
/// their stack beside their code, and each store there would make all of the page's code stale.
///
/// A line is marked when code is decoded from it, or when decoded or translated code relies on what it holds.
/// All lines of a page are forgotten when a store counts: its blocks are stale then, and mark theirs again
/// when they hold.
///
/// Several vCPUs would have to know of each other's stores that did not count (`CodeAnnouncements.swift`).
///
/// Confinement: the vCPU's thread.
@safe struct CodeLines: ~Copyable {
    private struct Page {
        var lines: UInt64 = 0
        /// Stores that did not count, since one did.
        var stores: UInt64 = 0
    }
    /// One `Page` for each of the map; nil: no store beside code is told from one to code.
    private let pages: MemoryMapping?

    /// Stores beside code count as ever until so many to code did: a page that is code, then data, then code
    /// again is better off with a permission to store.
    private static let fewStores = 16 * PageMap.generationStep
    /// After so many stores beside code one counts: code that does not run any more shall not slow them down.
    private static let patience: UInt64 = 128

    init(pages count: Int, vcpuCount: Int) throws(HostError) {
        pages =
            vcpuCount == 1
            ? try MemoryMapping(anonymous: max(count, 1) * MemoryLayout<Page>.stride) : nil
    }

    @inline(__always) private func page(_ index: Int) -> UnsafeMutablePointer<Page>? {
        guard let pages, index >= 0, (index + 1) * MemoryLayout<Page>.stride <= pages.size else { return nil }
        // SAFETY: inside the mapping, which starts as zeros.
        return unsafe pages.base.assumingMemoryBound(to: Page.self) + index
    }

    /// The lines of `count` (at least 1) bytes at `offset`, cut at the page's end.
    @inline(__always) static func lines(_ offset: Int, _ count: Int) -> UInt64 {
        let first = UInt64(offset) >> 6, last = min(UInt64(offset + count - 1), 4095) >> 6
        return (UInt64.max << first) & (UInt64.max >> (63 - last))
    }

    /// Code relies on `lines` of page `index` of the map.
    @inline(__always) func mark(_ index: Int, _ lines: UInt64) {
        guard let page = unsafe page(index) else { return }
        unsafe page.pointee.lines |= lines
    }

    /// Whether a store to a page with code need not count. `word`: the page's word in the `PageMap`.
    @inline(__always) func isBesideCode(_ index: Int, _ offset: Int, _ count: Int, word: UInt32) -> Bool {
        guard word >= Self.fewStores, word & PageMap.codeBit != 0, let page = unsafe page(index),
            unsafe page.pointee.lines & Self.lines(offset, count) == 0
        else { return false }
        guard unsafe page.pointee.stores < Self.patience else { return false }
        unsafe page.pointee.stores &+= 1
        return true
    }

    /// A store to the page counted.
    @inline(__always) func forget(_ index: Int) {
        guard let page = unsafe page(index) else { return }
        unsafe page.pointee = Page()
    }
}

public import Synchronization

/// One word per 4 KiB page of guest memory: whether translated or decoded code came from it, and how often
/// such code was overwritten. It is what makes self-modifying code and DMA into code pages visible.
///
/// ```
///  31                     2   1    0
/// +------------------------+-----+------+
/// | generation             |dirty| code |
/// +------------------------+-----+------+
/// ```
/// `code`: some engine decoded instructions from the page since the last store to it.
/// `generation`: counts stores that hit a page with `code` set. A decoded block remembers the generation and
/// is stale when it differs. `dirty`: written since the last `takeDirty` (migration and snapshots).
///
/// Confinement: any thread; every word is atomic.
@safe public final class PageMap: Sendable {
    @usableFromInline
    nonisolated(unsafe) let words: UnsafeMutablePointer<Atomic<UInt32>>
    /// Pages described.
    public let count: Int

    /// Who wants to know of stores to code. A struct: functions in a `Mutex` are wrapped at each access.
    private struct Listener: Sendable { var call: (@Sendable (Int) -> Void)? }
    private let listener = Mutex(Listener())

    public static let codeBit: UInt32 = 1
    public static let dirtyBit: UInt32 = 2
    public static let generationStep: UInt32 = 4

    public init(pages: Int) {
        precondition(pages >= 0, "a page map cannot have a negative size")
        count = pages
        // SAFETY: freshly allocated and initialised for exactly `pages` elements, freed in deinit.
        unsafe words = .allocate(capacity: max(pages, 1))
        for page in 0..<max(pages, 1) { unsafe (words + page).initialize(to: Atomic(0)) }
    }

    deinit {
        // SAFETY: allocated in init with this count; nobody else owns it.
        unsafe words.deinitialize(count: max(count, 1))
        unsafe words.deallocate()
    }

    /// The word of page `index` of the map (not a guest page number: regions are packed).
    @inlinable @inline(__always)
    public func word(_ index: Int) -> UInt32 {
        precondition(UInt(bitPattern: index) < UInt(bitPattern: count), "page outside the map")
        // SAFETY: checked against count.
        return unsafe words[index].load(ordering: .acquiring)
    }

    /// Address of the word of page `index`, for engines that poll it from hot code.
    /// - Safety: valid while this map lives; only atomic access.
    @unsafe @inlinable
    public func address(_ index: Int) -> UnsafeMutablePointer<Atomic<UInt32>> {
        precondition(UInt(bitPattern: index) < UInt(bitPattern: count), "page outside the map")
        return unsafe words + index
    }

    /// Sets `code`; returns the word (with the bit, without `dirty`) that decoded blocks must remember, and
    /// whether the bit is new, so that cached permissions to store to the page must go.
    public func markCode(_ index: Int) -> (word: UInt32, isNew: Bool) {
        precondition(UInt(bitPattern: index) < UInt(bitPattern: count), "page outside the map")
        // SAFETY: checked against count.
        let (old, new) = unsafe words[index].bitwiseOr(Self.codeBit, ordering: .acquiringAndReleasing)
        return (new & ~Self.dirtyBit, old & Self.codeBit == 0)
    }

    /// From now on `listener` is called, on any thread, with the index of each page with code that a store
    /// reached. It takes the place of the one before.
    public func onCodeStore(_ call: (@Sendable (_ index: Int) -> Void)?) {
        listener.withLock { $0.call = call }
    }

    @usableFromInline
    func codeStored(_ index: Int) {
        let call = listener.withLock { $0.call }
        call?(index)
    }

    /// A store reached page `index`, and none of the code that may be there.
    public func markDirty(_ index: Int) {
        precondition(UInt(bitPattern: index) < UInt(bitPattern: count), "page outside the map")
        // SAFETY: checked against count.
        _ = unsafe words[index].bitwiseOr(Self.dirtyBit, ordering: .acquiringAndReleasing)
    }

    /// A store reached page `index`: if it held code, its generation moves on and `code` is cleared.
    /// Returns whether it held code.
    @inlinable @discardableResult
    public func recordStore(_ index: Int) -> Bool {
        precondition(UInt(bitPattern: index) < UInt(bitPattern: count), "page outside the map")
        // SAFETY: checked against count.
        let word = unsafe words + index
        var old = unsafe word.pointee.load(ordering: .acquiring)
        while true {
            let hadCode = old & Self.codeBit != 0
            let new =
                hadCode
                ? ((old & ~Self.codeBit) &+ Self.generationStep) | Self.dirtyBit : old | Self.dirtyBit
            if new == old { return false }
            let (done, seen) = unsafe word.pointee.compareExchange(
                expected: old, desired: new, ordering: .acquiringAndReleasing)
            if done {
                if hadCode { codeStored(index) }
                return hadCode
            }
            old = seen
        }
    }
}

/// Larger pages than 4 KiB that code was fetched from. INVLPG of one part of such a page ends what is known
/// of all its parts: fetches, targets of branches, links between pages. None of those says how large its
/// page is, so that a page stays here once it was met.
struct LargeCode {
    /// A guest that spreads its code over more is taken to have some everywhere.
    private static let most = 4096
    /// Numbers of pages of 4 MiB around them, and of 1 GiB.
    private var large: Set<UInt64> = []
    private var giant: Set<UInt64> = []
    private var isFull = false

    /// Code was fetched at `linear` from a page of two to the `sizeShift` bytes.
    mutating func insert(_ linear: UInt64, sizeShift: UInt8) {
        if sizeShift == 30 { giant.insert(linear >> 30) } else { large.insert(linear >> 22) }
        guard large.count + giant.count > Self.most else { return }
        isFull = true
        large = []
        giant = []
    }

    /// Whether `linear` may lie in one of them.
    func contains(_ linear: UInt64) -> Bool {
        isFull || large.contains(linear >> 22) || !giant.isEmpty && giant.contains(linear >> 30)
    }
}

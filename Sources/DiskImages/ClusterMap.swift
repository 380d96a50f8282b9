/// Which clusters of a disk are in its overlay: one bit each. Pure.
struct ClusterMap {
    /// Clusters of the disk.
    let count: Int
    private var words: [UInt64]

    init(count: Int) {
        precondition(count >= 0, "a disk has no negative size")
        self.count = count
        words = [UInt64](repeating: 0, count: (count + 63) / 64)
    }

    func contains(_ cluster: Int) -> Bool {
        precondition(cluster >= 0 && cluster < count, "outside the disk")
        return words[cluster >> 6] >> UInt64(cluster & 63) & 1 != 0
    }

    /// Whether all clusters of `range` are there.
    func containsAll(_ range: Range<Int>) -> Bool { firstChange(in: range, from: true) == range.upperBound }

    /// The clusters from the beginning of `range`, which is not empty, that are all there or all not there.
    func run(in range: Range<Int>) -> (isPresent: Bool, clusters: Range<Int>) {
        let isPresent = contains(range.lowerBound)
        return (isPresent, range.lowerBound..<firstChange(in: range, from: isPresent))
    }

    mutating func insert(_ range: Range<Int>) {
        precondition(range.lowerBound >= 0 && range.upperBound <= count, "outside the disk")
        var cluster = range.lowerBound
        while cluster < range.upperBound {
            let bits = min(64 - (cluster & 63), range.upperBound - cluster)
            let ones = bits == 64 ? UInt64.max : (1 << UInt64(bits)) - 1
            words[cluster >> 6] |= ones << UInt64(cluster & 63)
            cluster += bits
        }
    }

    /// The first cluster of `range` whose bit is not `value`, or its end.
    private func firstChange(in range: Range<Int>, from value: Bool) -> Int {
        precondition(range.lowerBound >= 0 && range.upperBound <= count, "outside the disk")
        var cluster = range.lowerBound
        while cluster < range.upperBound {
            let word = words[cluster >> 6]
            // Bits that differ from `value`, from this cluster on.
            let different = (value ? ~word : word) >> UInt64(cluster & 63)
            if different != 0 { return min(cluster + different.trailingZeroBitCount, range.upperBound) }
            cluster += 64 - (cluster & 63)
        }
        return range.upperBound
    }
}

/// Looks linear addresses up in the page tables of a vCPU without being noticed: no accessed or dirty bit is
/// set, and rights do not count (SDM vol. 3 §4.3 to §4.5).
public struct PageTableView: Sendable {
    private enum Entry {
        static let present: UInt64 = 1, large: UInt64 = 1 << 7
        /// Physical-address bits 12..51.
        static let address: UInt64 = 0x000F_FFFF_FFFF_F000
    }
    private enum Mode { case none, bits32(largePages: Bool), pae, long }

    private let mode: Mode
    private let root: UInt64

    public init(_ state: VCPUState) {
        root = state.cr3
        if state.cr0 & CR0.paging == 0 {
            mode = .none
        } else if state.cr4 & CR4.physicalAddressExtension == 0 {
            mode = .bits32(largePages: state.cr4 & CR4.pageSizeExtensions != 0)
        } else {
            mode = state.efer & EFER.longModeActive != 0 ? .long : .pae
        }
    }

    /// The guest-physical address of `linear`; nil where no page is present.
    /// - Parameter load: the naturally aligned little-endian word of 4 or 8 bytes at a guest-physical
    ///   address; nil outside memory.
    public func physical(_ linear: UInt64, load: (_ address: UInt64, _ size: Int) -> UInt64?) -> UInt64? {
        switch mode {
        case .none: return linear & 0xFFFF_FFFF
        case .bits32(let largePages): return walk32(linear & 0xFFFF_FFFF, largePages, load)
        case .pae:
            let low = linear & 0xFFFF_FFFF
            guard let pointer = load(root & 0xFFFF_FFE0 | (low >> 30) << 3, 8), pointer & Entry.present != 0
            else { return nil }
            return walk(low, table: pointer & Entry.address, shift: 21, load)
        case .long:
            let high = Int64(bitPattern: linear) >> 47
            guard high == 0 || high == -1 else { return nil }
            return walk(linear, table: root & Entry.address, shift: 39, load)
        }
    }

    private func walk(
        _ linear: UInt64, table: UInt64, shift start: UInt64, _ load: (UInt64, Int) -> UInt64?
    ) -> UInt64? {
        var table = table
        var shift = start
        while true {
            guard let entry = load(table | ((linear >> shift) & 0x1FF) << 3, 8),
                entry & Entry.present != 0
            else { return nil }
            if shift == 12 || (shift < 39 && entry & Entry.large != 0) {
                let inPage = (1 << shift) - 1 as UInt64
                return entry & Entry.address & ~inPage | linear & inPage
            }
            table = entry & Entry.address
            shift -= 9
        }
    }

    /// 4 MiB pages reach 40 physical bits (PSE-36).
    private func walk32(_ linear: UInt64, _ largePages: Bool, _ load: (UInt64, Int) -> UInt64?) -> UInt64? {
        guard let entry = load(root & 0xFFFF_F000 | (linear >> 22) << 2, 4), entry & Entry.present != 0
        else { return nil }
        if largePages, entry & Entry.large != 0 {
            return entry & 0xFFC0_0000 | ((entry >> 13) & 0xFF) << 32 | linear & 0x3F_FFFF
        }
        guard let leaf = load(entry & 0xFFFF_F000 | ((linear >> 12) & 0x3FF) << 2, 4),
            leaf & Entry.present != 0
        else { return nil }
        return leaf & 0xFFFF_F000 | linear & 0xFFF
    }
}

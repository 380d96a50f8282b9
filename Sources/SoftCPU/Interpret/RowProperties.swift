/// What the block builder asks of a row of the instruction table.
extension InstructionRow {
    /// Executed by VectorBodies: the body needs what `VectorLowering.prepare` found out.
    var isVector: Bool { !attributes.isDisjoint(with: [.x87, .mmx, .sse, .avx]) }

    /// Nothing after it may be decoded ahead: it branches, or changes the mode or the mapping.
    var endsBlock: Bool {
        !attributes.isDisjoint(with: [.branch, .endsBlock]) && !attributes.contains(.conditional)
    }
}

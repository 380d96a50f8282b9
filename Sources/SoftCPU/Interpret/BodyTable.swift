/// The bodies of all instructions that are not lowered to a specialised one, by mnemonic.
struct BodyTable: Sendable {
    static let shared = BodyTable()

    private let general: [Handler?]
    /// MOV, PUSH and POP with segment, control and debug registers.
    private let system: [Handler?]

    private init() {
        var general = [Handler?](repeating: nil, count: Mnemonic.names.count)
        var system = general
        for (mnemonic, handler) in SystemBodies.table {
            system[Int(mnemonic.rawValue)] = handler
            general[Int(mnemonic.rawValue)] = handler
        }
        for table in [VectorBodies.table, IntegerBodies.table] {
            for (mnemonic, handler) in table { general[Int(mnemonic.rawValue)] = handler }
        }
        self.general = general
        self.system = system
    }

    /// The body of `i`; nil raises #UD: no row of the table is without one, except features that are not
    /// offered.
    func handler(_ i: Instruction) -> Handler? {
        let kinds = [i.operand0.kind, i.operand1.kind]
        for kind in kinds where kind == .segment || kind == .control || kind == .debug {
            return system[Int(i.mnemonic.rawValue)]
        }
        return general[Int(i.mnemonic.rawValue)]
    }
}

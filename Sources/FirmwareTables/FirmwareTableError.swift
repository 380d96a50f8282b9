/// Why tables cannot be built or placed.
public enum FirmwareTableError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The tables need more than the area below 1 MiB; in bytes.
    case tooLarge(tables: String, size: Int, limit: Int)
    /// The area below 1 MiB is no memory.
    case noMemory(address: UInt64)
    /// A part of the description that the tables cannot express.
    case notExpressible(String)

    public var description: String {
        switch self {
        case .tooLarge(let tables, let size, let limit):
            return "The \(tables) tables need \(size) bytes, but there is room for \(limit); "
                + "give the machine fewer processors."
        case .noMemory(let address):
            return
                "The firmware tables go to 0x\(String(address, radix: 16)), where the machine has no memory; "
                + "give it at least 1 MiB."
        case .notExpressible(let what):
            return "The firmware tables cannot describe \(what); change the machine's configuration."
        }
    }
}

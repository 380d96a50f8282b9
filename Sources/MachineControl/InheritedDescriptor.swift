public import MachineSpec

/// The descriptors that a machine's process is born with, at fixed numbers. Nothing else is open.
public enum InheritedDescriptor {
    /// The control socket; its first frame is `MachineCommand.configure`.
    public static let control: Int32 = 3
    /// A pipe that nobody writes to. When it ends, the owner is gone and the machine ends at once. Only read
    /// when the process is started with `--lifetime`.
    public static let lifetime: Int32 = 4
    /// The descriptor of resource 0; the others follow.
    public static let firstResource: Int32 = 5
}

/// The descriptors of one machine, found by their place in the list that came with its description.
public struct MachineResources: Sendable {
    public let count: Int
    /// Of resource 0.
    private let first: Int32

    public init(count: Int) { self.init(count: count, first: InheritedDescriptor.firstResource) }

    /// Resources at other numbers, for machines inside a test's process.
    init(count: Int, first: Int32) {
        self.count = count
        self.first = first
    }

    /// The descriptor of a resource that `MachineSpec.validate(resourceCount:)` has checked.
    public subscript(index: ResourceIndex) -> Int32 {
        precondition(Int(index.raw) < count, "a resource that was not passed")
        return first + Int32(index.raw)
    }
}

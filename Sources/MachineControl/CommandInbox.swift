public import LinuxHost
internal import Synchronization

/// Where the commands of the owner wait for the machine: those that come before the machine listens are
/// kept, at most `capacity`. Any thread.
public final class CommandInbox: Sendable {
    /// A command, and the descriptor that came with it.
    public typealias Handler = @Sendable (MachineCommand, Descriptor?) -> Void

    /// More than an owner sends while a machine is being built.
    static let capacity = 16

    private struct State {
        var handler: Handler?
        var waiting: [(command: MachineCommand, descriptor: Descriptor?)] = []
    }
    private let state = Mutex(State())

    public init() {}

    /// From now on `handler` gets every command, first those that wait. It runs on the control thread (or
    /// here, for those that wait) and must not block.
    public func listen(_ handler: @escaping Handler) {
        let waiting = state.withLock { state in
            state.handler = handler
            defer { state.waiting = [] }
            return state.waiting
        }
        for item in waiting { handler(item.command, item.descriptor) }
    }

    /// Hands a command to the machine.
    public func deliver(_ command: MachineCommand, _ descriptor: Descriptor? = nil) {
        let handler = state.withLock { state -> Handler? in
            if state.handler == nil, state.waiting.count < Self.capacity {
                state.waiting.append((command, descriptor))
            }
            return state.handler
        }
        handler?(command, descriptor)
    }
}

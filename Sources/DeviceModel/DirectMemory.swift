public import Synchronization

/// Memory of a device that processors reach without asking the device: a frame buffer.
public protocol DirectMemory: AnyObject, Sendable {
    /// In bytes, whole pages of 4,096.
    var size: Int { get }
    /// Host address of page `number`, which stays good as long as the device.
    func hostPage(_ number: Int) -> UInt
    /// A processor may store to the page, unnoticed, until it has given up what `access` let it remember.
    func noteDirectStores(page number: Int, by access: DirectAccess)
}

/// A processor that remembers where direct memory is. Any thread.
public protocol DirectMemoryUser: AnyObject, Sendable {
    /// Asks it to forget all that, soon: request `number` of the machine.
    func giveUpDirectMemory(_ number: UInt64)
    /// Whether it has done so for request `number`, or runs no guest code and will before it does.
    func hasGivenUpDirectMemory(_ number: UInt64) -> Bool
}

/// The processors of a machine that remember where direct memory is, which they have to give up when the
/// guest moves it, and when the device wants to know what is stored to it from then on.
///
/// Confinement: any thread.
public final class DirectAccess: Sendable {
    private struct User {
        weak var user: (any DirectMemoryUser)?
    }
    private struct State {
        var users: [User] = []
        var number: UInt64 = 0
    }
    private let state = Mutex(State())

    public init() {}

    public func add(_ user: any DirectMemoryUser) {
        state.withLock { state in
            state.users.removeAll { $0.user == nil }
            state.users.append(User(user: user))
        }
    }

    /// Asks all processors to give up what they remember; returns the number to ask `isSettled` for.
    @discardableResult
    public func revoke() -> UInt64 {
        state.withLock { state in
            state.number += 1
            for user in state.users { user.user?.giveUpDirectMemory(state.number) }
            return state.number
        }
    }

    /// Whether everybody has given up what was remembered before `revoke` returned `number`.
    public func isSettled(_ number: UInt64) -> Bool {
        state.withLock { state in
            state.users.allSatisfy { $0.user?.hasGivenUpDirectMemory(number) ?? true }
        }
    }
}

public import BlockStorage
internal import Synchronization

/// What is in a CD drive, and whether its tray is locked. The host puts discs in and takes them out; the
/// guest opens the tray.
///
/// Confinement: any thread.
public final class CDTray: Sendable {
    public struct Saved: Codable, Sendable, Equatable {
        var isOpen: Bool
        var isLocked: Bool
        /// The guest has yet to be told that there is another disc.
        var hasChanged: Bool
    }
    private struct State {
        var disc: (any BlockBackend)?
        var saved = Saved(isOpen: false, isLocked: false, hasChanged: false)
    }
    private let state: Mutex<State>

    public init(_ disc: (any BlockBackend)?) { state = Mutex(State(disc: disc)) }

    /// What can be read now: nothing while the tray is open.
    var disc: (any BlockBackend)? { state.withLock { $0.saved.isOpen ? nil : $0.disc } }
    /// Returns when no read of the disc is under way.
    func drain() { state.withLock { $0.disc }?.drain() }
    var saved: Saved { state.withLock { $0.saved } }

    /// Replaces the disc, or takes it out, and closes the tray; the guest is told once. Reads of the old disc
    /// may still be under way. False, and nothing happens, while the guest keeps the tray shut.
    @discardableResult
    public func insert(_ disc: (any BlockBackend)?) -> Bool {
        state.withLock { state in
            guard state.saved.isOpen || !state.saved.isLocked else { return false }
            state.disc = disc
            state.saved.isOpen = false
            state.saved.hasChanged = true
            return true
        }
    }

    /// The guest opens or closes the tray; false when it has locked it.
    func setOpen(_ open: Bool) -> Bool {
        state.withLock { state in
            if open, state.saved.isLocked { return false }
            if state.saved.isOpen != open { state.saved.hasChanged = !open }
            state.saved.isOpen = open
            return true
        }
    }

    func setLocked(_ locked: Bool) { state.withLock { $0.saved.isLocked = locked } }

    /// Whether there is news of another disc, which is none any more then.
    func takeChange() -> Bool {
        state.withLock { state in
            defer { state.saved.hasChanged = false }
            return state.saved.hasChanged
        }
    }

    func restore(_ saved: Saved) -> Bool {
        state.withLock { $0.saved = saved }
        return true
    }
}

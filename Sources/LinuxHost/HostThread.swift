internal import CLinux
internal import Glibc
internal import Synchronization

/// A thread of the host with a name and a stack of a chosen size.
///
/// Confinement: any thread may hold it; `join` it once it was told to end. One that is dropped without
/// `join` runs on and cleans up after itself.
public final class HostThread: Sendable {
    private struct State {
        var handle: pthread_t
        /// Somebody waits for the end, or did.
        var isJoined = false
        /// The end came: the handle may name another thread by now.
        var hasEnded = false
    }
    private final class Start: Sendable {
        let name: String
        let body: @Sendable () -> Void
        init(_ name: String, _ body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }
    private let state: Mutex<State>
    /// In a struct: a function that lies in a `Mutex` by itself is wrapped once more by each access.
    private struct EntryHook: Sendable { var run: (@Sendable (String) -> Void)? }
    private static let entryHook = Mutex(EntryHook())

    /// From now on every new thread calls `hook` with its name before its body: the fence around a
    /// machine's process narrows itself there.
    public static func onStart(_ hook: (@Sendable (_ name: String) -> Void)?) {
        entryHook.withLock { $0.run = hook }
    }

    /// Starts a thread. The kernel shows the first 15 bytes of `name`; `stackSize` is in bytes and is raised
    /// to the least that the host allows.
    public init(name: String, stackSize: Int = 512 << 10, _ body: @escaping @Sendable () -> Void)
        throws(HostError)
    {
        var attributes = pthread_attr_t()
        var handle = pthread_t()
        let start = unsafe Unmanaged.passRetained(Start(name, body))
        // SAFETY: the attributes live until the thread is made; `start` carries one reference, which the new
        // thread takes over, or which is released here when there is none.
        unsafe pthread_attr_init(&attributes)
        unsafe pthread_attr_setstacksize(&attributes, max(stackSize, 64 << 10))
        let code = unsafe pthread_create(
            &handle, &attributes,
            { raw in
                let start = unsafe Unmanaged<Start>.fromOpaque(raw!).takeRetainedValue()
                unsafe _ = ospite_set_thread_name(String(start.name.prefix(15)))
                HostThread.entryHook.withLock { $0.run }?(start.name)
                start.body()
                return nil
            }, start.toOpaque())
        unsafe pthread_attr_destroy(&attributes)
        guard code == 0 else {
            unsafe start.release()
            throw HostError("starting the thread \(name)", code: code)
        }
        state = Mutex(State(handle: handle))
    }

    deinit {
        state.withLock { state in
            if !state.isJoined { pthread_detach(state.handle) }
        }
    }

    /// Waits until the thread's body returned. Later calls return at once.
    public func join() {
        precondition(!isCurrent, "a thread cannot wait for itself")
        let handle: pthread_t? = state.withLock { state in
            defer { state.isJoined = true }
            return state.isJoined ? nil : state.handle
        }
        // SAFETY: taken out once, so it is joined once.
        guard let handle else { return }
        _ = pthread_join(handle, nil)
        state.withLock { state in state.hasEnded = true }
    }

    /// Sends `signal` to this thread, unless somebody waits for its end.
    public func interrupt(with signal: Int32) {
        state.withLock { state in
            if !state.isJoined { pthread_kill(state.handle, signal) }
        }
    }

    /// Whether the caller runs on this thread.
    public var isCurrent: Bool {
        state.withLock { state in !state.hasEnded && pthread_equal(state.handle, pthread_self()) != 0 }
    }

    /// Restricts the calling thread to the given host CPUs.
    public static func pinCurrent(to cpus: [Int32]) throws(HostError) {
        // SAFETY: the array lives for the call.
        guard unsafe ospite_set_affinity(cpus, Int32(cpus.count)) == 0 else {
            throw .last("pinning a thread to CPUs")
        }
    }

    /// The kernel's number of the calling thread.
    public static var currentID: Int32 { ospite_thread_id() }
}

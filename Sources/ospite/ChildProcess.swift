internal import Glibc
internal import LinuxHost

/// One child of ours, in a session of its own so that the terminal's job control does not reach it.
struct ChildProcess {
    let identifier: pid_t

    enum End: Equatable { case exited(Int32), killed(signal: Int32) }

    /// Starts `path` with no environment. Descriptor `n` of the child is `descriptors[n]`; every other
    /// descriptor of ours must be close-on-exec.
    init(path: String, arguments: [String], descriptors: [Descriptor]) throws(HostError) {
        // Sources move above every target, so that no dup2 overwrites one that is still needed.
        var moved: [Int32] = []
        defer { for descriptor in moved { _ = close(descriptor) } }
        for descriptor in descriptors {
            let copy = fcntl(descriptor.number, F_DUPFD_CLOEXEC, Int32(descriptors.count))
            guard copy >= 0 else { throw .last("passing a file to the machine") }
            moved.append(copy)
        }
        var actions = unsafe posix_spawn_file_actions_t()
        var attributes = posix_spawnattr_t()
        // SAFETY: both structures are initialised here, used below and destroyed on the way out.
        unsafe posix_spawn_file_actions_init(&actions)
        unsafe posix_spawnattr_init(&attributes)
        defer {
            unsafe posix_spawn_file_actions_destroy(&actions)
            unsafe posix_spawnattr_destroy(&attributes)
        }
        for (target, source) in moved.enumerated() {
            unsafe posix_spawn_file_actions_adddup2(&actions, source, Int32(target))
        }
        Self.freshSignals(&attributes)
        identifier = try unsafe Self.spawn(path, arguments, &actions, &attributes)
    }

    /// No signal blocked or ignored, and a session of its own.
    private static func freshSignals(_ attributes: inout posix_spawnattr_t) {
        let newSession: Int32 = 0x80  // POSIX_SPAWN_SETSID
        var none = sigset_t(), all = sigset_t()
        // SAFETY: our own sets and attributes, all initialised.
        unsafe sigemptyset(&none)
        unsafe sigfillset(&all)
        unsafe posix_spawnattr_setsigmask(&attributes, &none)
        unsafe posix_spawnattr_setsigdefault(&attributes, &all)
        unsafe posix_spawnattr_setflags(
            &attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | newSession))
    }

    private static func spawn(
        _ path: String, _ arguments: [String], _ actions: inout posix_spawn_file_actions_t,
        _ attributes: inout posix_spawnattr_t
    ) throws(HostError) -> pid_t {
        // SAFETY: argv is a NULL-terminated list of strings that live until they are freed below; the
        // environment is an empty list.
        var argv: [UnsafeMutablePointer<CChar>?] = unsafe ([path] + arguments).map { unsafe strdup($0) }
        unsafe argv.append(nil)
        defer { unsafe argv.forEach { unsafe free($0) } }
        var environment: [UnsafeMutablePointer<CChar>?] = unsafe [nil]
        var child: pid_t = 0
        let code = unsafe posix_spawn(&child, path, &actions, &attributes, argv, &environment)
        guard code == 0 else { throw HostError("starting \(path)", code: code) }
        return child
    }

    func kill() { _ = Glibc.kill(identifier, SIGKILL) }

    /// The end of the child, when it has ended; waits for it when asked to.
    func end(waiting: Bool) -> End? {
        var status: Int32 = 0
        while true {
            // SAFETY: the kernel writes our own integer.
            let result = unsafe waitpid(identifier, &status, waiting ? 0 : WNOHANG)
            if result == identifier { break }
            if result < 0, errno == EINTR { continue }
            return nil
        }
        let signal = status & 0x7F
        return signal == 0 ? .exited((status >> 8) & 0xFF) : .killed(signal: signal)
    }
}

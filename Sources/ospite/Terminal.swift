internal import Glibc

/// The terminal on standard input, in raw mode while the guest has it. `restore` may be called at any time
/// and any number of times.
final class Terminal {
    private var original = termios()
    private(set) var isRaw = false

    /// nil when standard input is no terminal.
    init?() {
        // SAFETY: the kernel fills our own structure.
        guard unsafe tcgetattr(STDIN_FILENO, &original) == 0 else { return nil }
    }

    /// Every key goes to the guest, and its bytes come out as they are.
    func enterRaw() {
        // SAFETY: our own structures.
        guard !isRaw, unsafe tcgetattr(STDIN_FILENO, &original) == 0 else { return }
        var raw = original
        unsafe cfmakeraw(&raw)
        guard unsafe tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0 else { return }
        isRaw = true
        Console.setRaw(true)
    }

    func restore() {
        guard isRaw else { return }
        // SAFETY: `original` was filled by tcgetattr before raw mode began.
        _ = unsafe tcsetattr(STDIN_FILENO, TCSADRAIN, &original)
        isRaw = false
        Console.setRaw(false)
    }

    /// We are the terminal's foreground job, or it has no jobs for us: changing its mode does not stop us.
    var isForeground: Bool {
        let group = tcgetpgrp(STDIN_FILENO)
        return group == -1 || group == getpgrp()
    }
}

internal import CLinux
internal import Synchronization

/// A terminal in raw mode: every key reaches the guest, nothing is echoed by the host. Any thread.
public final class RawTerminal: Sendable {
    private let terminal: Descriptor
    private let saved: Mutex<[UInt8]?>

    /// Changes the terminal's settings; nil when `descriptor` is no terminal.
    public init?(_ descriptor: Descriptor) {
        var settings = [UInt8](repeating: 0, count: 128)
        // SAFETY: the settings fit the buffer (asserted in CLinux.c).
        guard unsafe ospite_terminal_raw(descriptor.number, &settings) == 0 else { return nil }
        terminal = descriptor
        saved = Mutex(settings)
    }

    /// Puts the settings back that were found; later calls do nothing.
    public func restore() {
        guard let settings = saved.withLock({ saved in saved.take() }) else { return }
        // SAFETY: written by `ospite_terminal_raw`.
        unsafe _ = ospite_terminal_restore(terminal.number, settings)
    }

    deinit { restore() }
}

internal import Synchronization

/// Everything that Ospite itself says goes to standard error; standard output belongs to the guest.
enum Console {
    private static let isRaw = Atomic<Bool>(false)

    /// In raw mode the terminal does not return the carriage by itself.
    static func setRaw(_ raw: Bool) { isRaw.store(raw, ordering: .relaxed) }

    /// A standard error that is gone takes our words with it.
    static func say(_ sentence: String) {
        let ending = isRaw.load(ordering: .relaxed) ? "\r\n" : "\n"
        try? HostCall.standardError.writeAll(Array((sentence + ending).utf8))
    }
}

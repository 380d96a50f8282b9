internal import ArgumentParser
internal import MachineSpec

/// `ospite run`: one machine in the foreground, without a daemon.
struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Runs a machine in the foreground.",
        discussion: """
            On a terminal, Ctrl-A X ends the machine and Ctrl-A H lists the other keys. SIGINT and \
            SIGTERM press the power button; a second one, or ten seconds, end the machine.

            Exit status: 0 the guest powered off, or asked for a reset under --no-reboot; 3 the guest \
            panicked, or triple-faulted under --no-reboot; (V << 1) | 1 after a write of V to the \
            debug-exit port; 1 an error of Ospite or the host; 64 wrong usage.
            """)

    @Option(help: "The machine's name; also the name of its folder at run time.")
    var name: String?

    @Option(help: "The machine's UUID (default: random).")
    var uuid: String?

    @Option(help: "What runs the guest: auto, kvm or soft.")
    var accel = "auto"

    @Option(help: "Virtual processors, 1 to 255.")
    var cpus = 1

    @Option(help: "Guest memory: MiB, or a number with K, M, G or T.")
    var memory = "1G"

    @Option(help: "The board: pc, or micro: virtio devices in memory, no PCI and no legacy devices.")
    var machine = "pc"

    @Option(help: "A Linux kernel (bzImage or ELF) to boot without firmware.")
    var kernel: String?

    @Option(help: "The initial RAM disk for --kernel.")
    var initrd: String?

    @Option(parsing: .unconditional, help: "The command line for --kernel.")
    var append: String?

    @Option(
        help: """
            A disk: FILE[,format=raw][,bus=virtio|sata|nvme|ide|scsi|usb][,readonly][,snapshot]\
            [,root-port=N].
            """)
    var disk: [String] = []

    @Option(help: "A CD drive with a disc in it: FILE[,bus=sata|ide], or none for an empty drive.")
    var cdrom: [String] = []

    @Option(help: "A floppy disk: FILE[,readonly][,snapshot], of 720, 1440 or 2880 KiB. Up to two.")
    var floppy: [String] = []

    @Option(
        help: """
            A serial port: stdio, file:PATH, unix:PATH or none. Up to four. A file takes at most 1 GiB. \
            (default: stdio, or none when --console has the terminal)
            """)
    var serial: [String] = []

    @Option(help: "A virtio console, hvc0 in Linux: stdio, file:PATH or unix:PATH.")
    var console: String?

    @Flag(help: "Add the debug-exit port 0xf4.")
    var debugExit = false

    @Flag(help: "A reset by the guest ends the machine.")
    var noReboot = false

    @Flag(help: "Keep no disk write: every image stays as it is.")
    var snapshot = false

    @Option(
        help: "Host memory for decoded and translated code of all CPUs. (default: 64M a CPU, at most 1G)")
    var codeCache: String?

    @Flag(help: "Interpret only.")
    var noTranslate = false

    @Flag(help: "Check translated code against the interpreter.")
    var verify = false

    @Flag(help: "Print counters to standard error at the end.")
    var stats = false

    @Flag(help: "Name translated code for perf, in /tmp/perf-PID.map.")
    var perfMap = false

    @Option(help: "The sandbox of the machine's process: on, or log for finding what it forbids.")
    var sandbox = "on"

    @Flag(help: .private)
    var idle = false

    @OptionGroup var starting: FirmwareOptions

    @OptionGroup var devices: DeviceOptions

    @OptionGroup var screen: ScreenOptions

    @OptionGroup var debugging: DebugOptions

    @OptionGroup var later: LaterOptions

    func run() throws {
        let status: Int32
        do throws(RunFailure) {
            status = try Launcher.run(self)
        } catch {
            Console.say("ospite: \(error.sentence)")
            throw ExitCode(error.status)
        }
        throw ExitCode(status)
    }
}

/// Why a run did not begin: the sentence for standard error, and the exit status.
struct RunFailure: Error {
    let sentence: String
    let status: Int32

    static func usage(_ error: SpecError) -> RunFailure {
        RunFailure(sentence: error.description, status: 64)
    }
    static func usage(_ sentence: String) -> RunFailure { RunFailure(sentence: sentence, status: 64) }
    static func host(_ sentence: String) -> RunFailure { RunFailure(sentence: sentence, status: 1) }
}

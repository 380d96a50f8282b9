/// One descriptor that comes with a machine: its place in the list of resources that the starter passes.
public struct ResourceIndex: Hashable, Sendable {
    public let raw: UInt8
    public init(_ raw: UInt8) { self.raw = raw }
}

/// What runs the guest's instructions.
public enum Accelerator: UInt8, Sendable, CaseIterable {
    /// Measures the host and picks.
    case auto = 0
    case kvm = 1
    case soft = 2
}

/// Which board the guest finds.
public enum MachineType: UInt8, Sendable, CaseIterable {
    /// A PC that unmodified systems accept.
    case pc = 0
    /// Virtio only, no legacy devices: boots fastest.
    case micro = 1
}

/// What the sandbox does about a system call that is not on its list.
public enum SandboxMode: UInt8, Sendable, CaseIterable {
    /// The process dies.
    case on = 0
    /// The kernel's audit log names it and the call goes through: for finding what a list lacks.
    case log = 1
}

/// A Linux or PVH kernel loaded by us, without firmware.
public struct KernelBoot: Equatable, Sendable {
    public var kernel: ResourceIndex
    public var initialRAMDisk: ResourceIndex?
    /// At most `MachineSpec.longestCommandLine` bytes, no NUL.
    public var commandLine: String

    public init(kernel: ResourceIndex, initialRAMDisk: ResourceIndex? = nil, commandLine: String = "") {
        self.kernel = kernel
        self.initialRAMDisk = initialRAMDisk
        self.commandLine = commandLine
    }
}

/// Which firmware a machine starts.
public enum FirmwareKind: UInt8, Sendable, CaseIterable {
    /// A PC BIOS in one ROM: SeaBIOS.
    case bios = 0
    /// UEFI in a flash, with a second flash below it for its variables: OVMF.
    case uefi = 1
}

/// Kinds of what may be booted, in the usual order.
public enum BootDevice: UInt8, Sendable, CaseIterable {
    case disk = 0, cd, floppy, net
}

/// The firmware that a machine starts, as an image of its ROM.
public struct FirmwareSpec: Equatable, Sendable {
    public var kind: FirmwareKind
    public var image: ResourceIndex
    /// The file of a UEFI's variables: read, and written when they change.
    public var variables: ResourceIndex?
    /// The video BIOS; without it the screen is there, but a BIOS cannot use it.
    public var videoROM: ResourceIndex?
    /// Takes what the firmware says about itself.
    public var log: ResourceIndex?
    /// Takes the text on the screen when the machine ends.
    public var screenText: ResourceIndex?
    /// The firmware waits for a key and offers its boot menu.
    public var hasBootMenu: Bool
    /// What is tried first; kinds that are not named come after those that are.
    public var bootOrder: [BootDevice] = []

    public init(
        kind: FirmwareKind = .bios, image: ResourceIndex, variables: ResourceIndex? = nil,
        videoROM: ResourceIndex? = nil,
        log: ResourceIndex? = nil, screenText: ResourceIndex? = nil, hasBootMenu: Bool = false
    ) {
        self.variables = variables
        self.videoROM = videoROM
        self.screenText = screenText
        self.kind = kind
        self.image = image
        self.log = log
        self.hasBootMenu = hasBootMenu
    }
}

/// The bytes of a disk on the host.
public enum DiskFormat: UInt8, Sendable, CaseIterable { case raw = 0, qcow2, vmdk, vdi, vhd, vhdx }

/// How the guest reaches a disk.
public enum DiskBus: UInt8, Sendable, CaseIterable {
    case virtio = 0, sata, ide, nvme, scsi, usb

    var name: String { "\(self)" }
    /// Whether CD drives can be on it.
    var takesDrives: Bool { self == .sata || self == .ide }
    static var names: [String] { allCases.map(\.name) }
}

/// One disk of the machine, opened and locked by the starter.
public struct DiskSpec: Equatable, Sendable {
    public var image: ResourceIndex
    /// An empty file without a name that takes the guest's writes; the image then stays as it is.
    public var overlay: ResourceIndex?
    /// What the starter measured, in bytes; a multiple of 512 after rounding down.
    public var byteCount: UInt64
    public var format: DiskFormat
    public var bus: DiskBus
    public var isReadOnly: Bool
    /// The root port that it is behind, from 1 on; nil: on the board's own bus.
    public var rootPort: Int?

    public static let sectorSize: UInt64 = 512

    public init(
        image: ResourceIndex, overlay: ResourceIndex? = nil, byteCount: UInt64, format: DiskFormat = .raw,
        bus: DiskBus = .virtio, isReadOnly: Bool = false, rootPort: Int? = nil
    ) {
        self.rootPort = rootPort
        self.image = image
        self.overlay = overlay
        self.byteCount = byteCount
        self.format = format
        self.bus = bus
        self.isReadOnly = isReadOnly
    }
}

/// A CD or DVD drive, with or without a disc in it.
public struct DriveSpec: Equatable, Sendable {
    public var disc: ResourceIndex?
    /// SATA or IDE.
    public var bus: DiskBus
    public init(disc: ResourceIndex? = nil, bus: DiskBus = .sata) {
        self.disc = disc
        self.bus = bus
    }
}

/// The host's end of a serial port or of the virtio console. The descriptors may be shared with other
/// programs: nobody sets `O_NONBLOCK` on them.
public enum SerialBackend: Equatable, Sendable {
    /// The port exists and nothing is connected.
    case none
    /// Bytes from `input`, when there is one, and to `output`.
    case stream(input: ResourceIndex?, output: ResourceIndex)
    /// A listening Unix stream socket; one connection at a time.
    case listener(ResourceIndex)
}

/// Who shows the machine's screen: a process that the starter runs beside the machine's own.
public struct DisplaySpec: Equatable, Sendable {
    /// A memory file for the pixels.
    public var surface: ResourceIndex
    /// A sequenced-packet socket: frames go out, keys and movement come in.
    public var link: ResourceIndex

    public init(surface: ResourceIndex, link: ResourceIndex) {
        self.surface = surface
        self.link = link
    }
}

/// A debugger that speaks gdb's remote protocol may connect.
public struct DebuggerSpec: Equatable, Sendable {
    /// A listening stream socket.
    public var listener: ResourceIndex
    /// The machine stands still until the debugger lets it go.
    public var waits: Bool

    public init(listener: ResourceIndex, waits: Bool = false) {
        self.listener = listener
        self.waits = waits
    }
}

/// Which display adapter the guest finds.
public enum VideoAdapter: UInt8, Sendable, CaseIterable {
    /// The VGA that a firmware shows itself on; without firmware none.
    case vga = 0
    /// A virtio display: with firmware beside the VGA, in one PCI function.
    case virtio = 1
}

/// Which keyboard and pointer the guest finds.
public enum InputDevices: UInt8, Sendable, CaseIterable {
    /// Those of the keyboard controller, which every PC has; with a firmware a USB tablet, too.
    case ps2 = 0
    /// And a virtio keyboard and a virtio tablet, which have the input while their drivers run.
    case virtio = 1
    /// And a USB keyboard, beside the USB tablet that a machine with a firmware has anyway.
    case usb = 2
}

/// Switches that change how a machine runs, not what it is.
public struct RunOptions: OptionSet, Hashable, Sendable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// The debug-exit port 0xF4 exists and ends the machine.
    public static let debugExit = RunOptions(rawValue: 1 << 0)
    /// A reset by the guest ends the machine.
    public static let noReboot = RunOptions(rawValue: 1 << 1)
    /// The software CPU only interprets.
    public static let noTranslate = RunOptions(rawValue: 1 << 2)
    /// The software CPU checks each translated block against the interpreter.
    public static let verify = RunOptions(rawValue: 1 << 3)
    /// Counters are reported when the machine ends.
    public static let statistics = RunOptions(rawValue: 1 << 4)
    /// No guest at all: a process that only answers its control socket and echoes its first serial port.
    /// For the proofs of life cycle and terminal handling.
    public static let idle = RunOptions(rawValue: 1 << 5)

    /// Every option of this version.
    public static let known = RunOptions(rawValue: (1 << 6) - 1)
}

/// The validated description of a machine, in the form that goes to its process: files are places in a list
/// of descriptors, never paths. Pure value.
public struct MachineSpec: Equatable, Sendable {
    public var name: MachineName
    public var uuid: MachineUUID
    public var accelerator: Accelerator = .auto
    /// 1...255.
    public var cpuCount = 1
    public var memory = MemorySize.mebibytes(1024)
    public var machineType: MachineType = .pc
    public var boot: KernelBoot?
    public var firmware: FirmwareSpec?
    public var disks: [DiskSpec] = []
    public var drives: [DriveSpec] = []
    /// Each in a drive of its own kind; their bus says nothing.
    public var floppies: [DiskSpec] = []
    public var networks: [NetworkSpec] = []
    /// PCI Express root ports; devices that name one are behind it.
    public var rootPorts = 0
    /// COM1 to COM4; a missing one is not there for the guest.
    public var serialPorts: [SerialBackend] = []
    /// The host's end of the virtio console; nil: the guest has none.
    public var console: SerialBackend?
    public var video: VideoAdapter = .vga
    public var input: InputDevices = .ps2
    /// Nil: nobody can look at the screen.
    public var display: DisplaySpec?
    public var options: RunOptions = []
    /// Bytes of host memory for decoded and translated code, shared out among the processors.
    public var codeCache = MemorySize.mebibytes(64)
    public var sandbox: SandboxMode = .on
    /// /dev/kvm; nil when the host has none or the software CPU was asked for.
    public var kvm: ResourceIndex?
    /// Takes the names of translated code, for `perf`.
    public var perfMap: ResourceIndex?
    public var debugger: DebuggerSpec?

    public init(name: MachineName, uuid: MachineUUID) {
        self.name = name
        self.uuid = uuid
    }

    /// Whether the guest has a screen.
    public var hasScreen: Bool { firmware != nil || video == .virtio }

    /// Whether there is a SATA controller.
    public var hasSATA: Bool { count(on: .sata) > 0 }

    /// Whether there is a USB controller: with a screen it has the tablet that a viewer's pointer moves.
    public var hasUSB: Bool { firmware != nil || count(on: .usb) > 0 }

    /// Disks and CD drives on a bus.
    func count(on bus: DiskBus) -> Int {
        disks.count { $0.bus == bus } + drives.count { $0.bus == bus }
    }
}

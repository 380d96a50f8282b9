/// What the firmware tables say about a machine. The machine fills it from the devices that it has built; the
/// defaults are the `pc` machine's fixed addresses.
public struct PlatformDescription: Sendable, Equatable, Codable {
    /// A run of guest-physical addresses.
    public struct Window: Sendable, Equatable, Codable {
        public var start: UInt64
        /// In bytes, at least 1.
        public var size: UInt64
        public init(start: UInt64, size: UInt64) {
            self.start = start
            self.size = size
        }
        /// The last address inside.
        var last: UInt64 { start &+ (size &- 1) }
    }

    /// A run of I/O ports, both ends included.
    public struct PortWindow: Sendable, Equatable, Codable {
        public var first: UInt16
        public var last: UInt16
        public init(first: UInt16, last: UInt16) {
            self.first = first
            self.last = last
        }
    }

    public struct SerialPort: Sendable, Equatable, Codable {
        public var port: UInt16
        public var interrupt: UInt8
        public init(port: UInt16, interrupt: UInt8) {
            self.port = port
            self.interrupt = interrupt
        }
        /// COM1 to COM4.
        public static let standard = [
            SerialPort(port: 0x3F8, interrupt: 4), SerialPort(port: 0x2F8, interrupt: 3),
            SerialPort(port: 0x3E8, interrupt: 4), SerialPort(port: 0x2E8, interrupt: 3),
        ]
    }

    /// A virtio device with its registers in memory, and its interrupt's number.
    public struct VirtioPlace: Sendable, Equatable, Codable {
        public var window: Window
        public var interrupt: UInt32
        public init(window: Window, interrupt: UInt32) {
            self.window = window
            self.interrupt = interrupt
        }
    }

    /// Fixed ACPI hardware (ACPI 6.5 §4.8). Ports of length 4, 2, 4 and `generalEventLength`.
    public struct PowerManagement: Sendable, Equatable, Codable {
        public var eventPort: UInt16 = 0x600
        public var controlPort: UInt16 = 0x604
        public var timerPort: UInt16 = 0x608
        /// The timer counts 32 bits instead of 24.
        public var timerHas32Bits = false
        public var generalEventPort: UInt16 = 0x620
        public var generalEventLength: UInt8 = 4
        public var interrupt: UInt8 = 9
        public var commandPort: UInt16 = 0xB2
        public var enableCommand: UInt8 = 0xA0
        public var disableCommand: UInt8 = 0xA1
        public var resetPort: UInt16 = 0xCF9
        public var resetValue: UInt8 = 0x06
        /// SLP_TYP of soft off.
        public var softOffType: UInt8 = 5
        /// SLP_TYP of suspend to RAM, the number that QEMU's boards have; nil: there is none.
        public var suspendType: UInt8? = 1
        public init() {}
    }

    /// In the order of the processors; the position is the ACPI processor UID.
    public var apicIDs: [UInt32]
    public var localAPICAddress: UInt32 = 0xFEE0_0000
    public var ioapicID: UInt8 = 0
    public var ioapicAddress: UInt32 = 0xFEC0_0000
    /// PCIe configuration space; 1 MiB per bus.
    public var ecam = Window(start: 0xE000_0000, size: 0x1000_0000)
    public var pciWindow32 = Window(start: 0xC000_0000, size: 0x2000_0000)
    /// More of the same.
    public var morePCIWindows32: [Window] = []
    public var pciWindow64: Window?
    /// Without 0xCF8..0xCFF, which are the host bridge's own.
    public var pciPortWindows = [
        PortWindow(first: 0, last: 0xCF7), PortWindow(first: 0xD00, last: 0xFFFF),
    ]
    /// IOAPIC inputs of PCI interrupts: slot s, pin p (0 = INTA) takes number `(s + p) & 3`.
    public var pciInterrupts: [UInt32] = [16, 17, 18, 19]
    /// The same for systems that use the 8259.
    public var pciLegacyInterrupts: [UInt32] = [10, 11, 10, 11]
    public var powerManagement = PowerManagement()
    /// A PCI host bridge; what describes it above is only used with it.
    public var hasPCI = true
    /// The two 8259s and the 8254, with the timer at input 2 of the IOAPIC.
    public var hasLegacyController = true
    public var virtio: [VirtioPlace] = []
    public var hpetAddress: UInt32? = 0xFED0_0000
    public var serialPorts: [SerialPort] = [SerialPort.standard[0]]
    public var hasRealTimeClock = true
    public var hasKeyboardController = true
    public var hasVGA = false
    /// QEMU's pvpanic.
    public var panicPort: UInt16? = 0x505

    /// A machine with processors of APIC ids 0, 1, 2...
    public init(processors: Int) {
        precondition(processors > 0, "a machine has a processor")
        apicIDs = (0..<UInt32(processors)).map { $0 }
    }
}

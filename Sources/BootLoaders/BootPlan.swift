public import GuestMemory
public import X86Architecture

/// What to start, and what it gets to see. Files are whole: the VMM reads them from descriptors.
public struct BootRequest: Sendable {
    /// An extra file for the kernel with its own string (multiboot and PVH).
    public struct Module: Sendable {
        public var file: [UInt8]
        public var commandLine: String
        public init(file: [UInt8], commandLine: String = "") {
            self.file = file
            self.commandLine = commandLine
        }
    }

    public var kernel: [UInt8]
    /// Linux's initial RAM disk; module 1 under PVH and multiboot.
    public var initrd: [UInt8]?
    /// After the initrd; Linux's own protocol refuses them.
    public var modules: [Module] = []
    public var commandLine = ""
    /// What a bzImage is told in front of `commandLine`, whose words win. Left out where both do not fit.
    public var linuxWords = ""
    /// Where the ACPI tables begin, if the machine has them.
    public var rsdp: GuestAddress?
    /// What the kernel may not use, in addition to what is no RAM.
    public var reservations = MemoryMap.pcReservations
    /// A bzImage that we can unpack is entered behind its decompressor, by PVH. The kernel then stays at the
    /// address that it is linked to.
    public var unpacksKernel = false
    /// Told of each large part of RAM in front of the first byte that is put there: all of it will be used.
    public var announce: (@Sendable (GuestAddress, _ count: Int) -> Void)?
    /// The machine has a VGA in text mode 3 for the kernel's console.
    public var hasTextScreen = false

    public init(kernel: [UInt8], initrd: [UInt8]? = nil, commandLine: String = "") {
        self.kernel = kernel
        self.initrd = initrd
        self.commandLine = commandLine
    }
}

/// How a kernel is entered.
public enum BootProtocol: String, Sendable, CaseIterable {
    /// Linux/x86 boot protocol, 64-bit entry (Documentation/arch/x86/boot).
    case linux64
    /// Linux/x86 boot protocol, 32-bit entry.
    case linux32
    /// Xen's PVH: hvm_start_info and PHYS32_ENTRY.
    case pvh
    /// Multiboot 0.6.96.
    case multiboot
}

/// A kernel that lies in guest memory, ready to run.
public struct BootPlan: Sendable {
    /// Something that the loader put into guest memory. Not all of `size` is written: a kernel's includes the
    /// room that it decompresses into.
    public struct Placement: Sendable, Equatable {
        public let part: String
        public let start: GuestAddress
        /// In bytes.
        public let size: UInt64
        public var end: UInt64 { start.raw &+ size }
    }

    public let bootProtocol: BootProtocol
    public let entryPoint: GuestAddress
    /// Of the boot processor at its first instruction.
    public let state: VCPUState
    /// In the order in which they were placed.
    public let placements: [Placement]
    public let memoryMap: MemoryMap
}

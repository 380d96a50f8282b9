/// A segment register with its hidden part (SDM vol. 3 §3.4.3).
public struct SegmentState: Hashable, Sendable, Codable, BitwiseCopyable {
    public var selector: UInt16
    public var base: UInt64
    /// In bytes, granularity applied.
    public var limit: UInt32
    /// Descriptor bits 40..47 in bits 0..7 (type, S, DPL, P) and 52..55 in bits 12..15 (AVL, L, D/B, G);
    /// bit 16 marks an unusable (null) segment.
    public var attributes: UInt32

    public init(selector: UInt16 = 0, base: UInt64 = 0, limit: UInt32 = 0xFFFF, attributes: UInt32 = 0x93) {
        self.selector = selector
        self.base = base
        self.limit = limit
        self.attributes = attributes
    }
    public static let unusable: UInt32 = 1 << 16
}

/// A descriptor-table register.
public struct TableRegister: Hashable, Sendable, Codable, BitwiseCopyable {
    public var base: UInt64
    public var limit: UInt16
    public init(base: UInt64 = 0, limit: UInt16 = 0xFFFF) {
        self.base = base
        self.limit = limit
    }
}

/// An event whose delivery was under way when the state was taken.
public struct PendingEvent: Hashable, Sendable, Codable {
    public var vector: UInt8
    public var errorCode: UInt32?
    /// A software interrupt (INT n) or exception, which does not go through the local APIC.
    public var isSoftware: Bool
    public init(vector: UInt8, errorCode: UInt32? = nil, isSoftware: Bool = false) {
        self.vector = vector
        self.errorCode = errorCode
        self.isSoftware = isSoftware
    }
}

/// The architectural state of one virtual CPU: what every engine can load and give back. Snapshots, migration
/// and the hand-over between engines are this struct.
public struct VCPUState: Hashable, Sendable, Codable {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8..R15.
    public var gpr = [UInt64](repeating: 0, count: 16)
    public var rip: UInt64 = 0
    public var rflags: UInt64 = 2
    /// ES, CS, SS, DS, FS, GS.
    public var segments = [SegmentState](repeating: SegmentState(), count: 6)
    public var ldtr = SegmentState(attributes: 0x82)
    public var tr = SegmentState(attributes: 0x8B)
    public var gdtr = TableRegister()
    public var idtr = TableRegister()
    public var cr0: UInt64 = 0x6000_0010
    public var cr2: UInt64 = 0
    public var cr3: UInt64 = 0
    public var cr4: UInt64 = 0
    public var cr8: UInt64 = 0
    public var efer: UInt64 = 0
    public var xcr0: UInt64 = 1
    /// Protection-key rights of user pages; absent means that every key allows everything.
    public var pkru: UInt32?
    /// DR0..DR3, DR6, DR7.
    public var debug: [UInt64] = [0, 0, 0, 0, 0xFFFF_0FF0, 0x400]
    /// The XSAVE area in standard format: 512 bytes legacy, 64 header, then components (AVX at 576).
    public var xsave = [UInt8](repeating: 0, count: 1024)
    /// Model-specific registers by number; only those that are not elsewhere in this struct.
    public var msrs: [UInt32: UInt64] = [:]
    /// Added to the host's time-stamp counter.
    public var tscOffset: UInt64 = 0
    /// Nanoseconds that kvmclock is ahead of the time-stamp counter, modulo 2^64; nil is none. A guest has a
    /// lead after it came from a KVM whose clock did not begin with the counter.
    public var clockLead: UInt64?
    public var activity = Activity.running
    public var pending: PendingEvent?
    /// Interrupts are held back for one instruction (STI, MOV SS).
    public var interruptShadow = false
    public var nmiBlocked = false
    public var nmiPending = false

    public enum Activity: UInt8, Sendable, Codable, BitwiseCopyable {
        case running, halted, waitingForStartup
    }

    /// The state after reset (SDM vol. 3 table 10-1): real mode at F000:FFF0.
    public init() {
        rip = 0xFFF0
        segments[Int(SegmentRegister.cs.rawValue)] = SegmentState(
            selector: 0xF000, base: 0xFFFF_0000, limit: 0xFFFF, attributes: 0x9B)
        gpr[2] = 0x600
        // FCW 0x40 after reset; 0x37F after FNINIT. MXCSR 0x1F80.
        xsave[0] = 0x40
        xsave[24] = 0x80
        xsave[25] = 0x1F
    }
}

import CLinux
import Glibc
import LinuxHost
import Synchronization

/// Emitted one-instruction code and the plans that use it, shared by all vCPUs of the process.
///
/// The code is a memfd mapped twice, writable and executable, so that no page is ever both. Entries are never
/// moved or freed; registers and addresses are not part of an encoding, so their number is bounded by the
/// instruction table (`mostEntries`), whatever a guest executes.
///
/// Confinement: any thread; finished entries are immutable.
final class ThunkCache: Sendable {
    /// Bytes reserved for one thunk and one plan.
    static let codeBytes = 128, planBytes = 128

    private let writable: MemoryMapping
    private let executable: MemoryMapping
    private let plans: MemoryMapping
    private let entries = Mutex<[UInt64: UInt]>([:])
    let mostEntries: Int

    /// The process's cache, or why the host refused it.
    static let shared = Result { () throws(HostError) in try ThunkCache() }

    init() throws(HostError) {
        mostEntries = VectorLowering.mostEncodings
        let codeSize = (mostEntries * Self.codeBytes + 4095) & ~4095
        let file = try Self.executableMemory()
        defer { close(file) }
        guard ftruncate(file, codeSize) == 0 else { throw .last("sizing memory for emitted code") }
        writable = try MemoryMapping(file: file, size: codeSize, writable: true)
        executable = try MemoryMapping(file: file, size: codeSize, writable: false, executable: true)
        plans = try MemoryMapping(anonymous: mostEntries * Self.planBytes)
    }

    /// MFD_CLOEXEC, and MFD_EXEC where the kernel knows it (6.3).
    private static func executableMemory() throws(HostError) -> Int32 {
        for flags in [0x11, 0x01] as [UInt32] {
            // SAFETY: a constant string.
            let file = unsafe ospite_memfd_create("emitted code", flags)
            if file >= 0 { return file }
        }
        throw .last("creating memory for emitted code")
    }

    /// The plan of encoding `key`, made by `make` and `code` on first use: `code` gives the bytes, `make` the
    /// plan for the code's address.
    func plan(_ key: UInt64, code: () -> [UInt8], make: (UInt) -> VectorPlan) -> UInt {
        entries.withLock { entries in
            if let found = entries[key] { return found }
            let slot = entries.count
            precondition(slot < mostEntries, "more vector encodings than the instruction table has")
            let bytes = code()
            precondition(bytes.count <= Self.codeBytes, "a thunk is too long")
            let codeOffset = slot * Self.codeBytes
            for (index, byte) in bytes.enumerated() {
                // SAFETY: inside the slot, which is inside the mapping; nobody executes it yet.
                unsafe writable.base.storeBytes(of: byte, toByteOffset: codeOffset + index, as: UInt8.self)
            }
            let address = unsafe UInt(bitPattern: plans.base) + UInt(slot * Self.planBytes)
            let start = bytes.isEmpty ? 0 : unsafe UInt(bitPattern: executable.base) + UInt(codeOffset)
            // SAFETY: a fresh slot of `planBytes` bytes.
            unsafe UnsafeMutablePointer<VectorPlan>(bitPattern: address).unsafelyUnwrapped
                .initialize(to: make(start))
            entries[key] = address
            return address
        }
    }

    var count: Int { entries.withLock { $0.count } }
}

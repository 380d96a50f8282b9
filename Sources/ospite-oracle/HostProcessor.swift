internal import COracle
@testable internal import SoftCPU

/// Why the comparison cannot run here.
struct OracleError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// The host's processor behind the gate in COracle. One per process.
struct HostProcessor {
    /// What follows the code under test: a jump to the trampoline.
    let endings: [OracleMode: [UInt8]]
    /// What ring 3 can see of the host's global descriptor table, 16 entries.
    let globalTable: [UInt64]

    init() throws {
        guard oracle_has_fsgsbase() != 0 else {
            throw OracleError(
                "the host's kernel does not let programs use WRFSBASE; it needs Linux 5.9 or newer")
        }
        let status = oracle_prepare()
        guard status == 0 else { throw OracleError("cannot map the windows: error \(-status)") }
        for (slot, plan) in DescriptorPlan.table.enumerated() {
            let status = oracle_set_descriptor(UInt32(slot), plan.base, plan.limit, plan.attributes)
            guard status == 0 else { throw OracleError("modify_ldt refused entry \(slot): error \(-status)") }
        }
        var table = [UInt64](repeating: 0, count: 16)
        for slot in 1..<16 {
            var rights: UInt32 = 0, limit: UInt32 = 0
            guard unsafe oracle_look_up(UInt16(slot << 3 | 3), &rights, &limit) != 0 else { continue }
            let attributes = rights >> 8 & 0xF0FF
            let raw = attributes & DescriptorPlan.pages != 0 ? limit >> 12 : limit
            table[slot] = DescriptorPlan(base: 0, limit: raw, attributes: attributes).entry
        }
        globalTable = table
        var endings: [OracleMode: [UInt8]] = [:]
        for mode in OracleMode.allCases {
            var bytes = [UInt8](repeating: 0, count: 16)
            let count = unsafe oracle_ending(Int32(mode.rawValue), &bytes)
            endings[mode] = Array(bytes[..<Int(count)])
        }
        self.endings = endings
    }

    /// Writes code at `offset`, as much of it as there is room for.
    func write(_ bytes: [UInt8], at offset: Int) {
        let code = unsafe oracle_code().unsafelyUnwrapped
        var place = offset
        // SAFETY: inside the two code pages.
        for byte in bytes where place < Int(Place.codeSize) {
            unsafe code[place] = byte
            place += 1
        }
    }

    func fillWithBreakpoints(_ offset: Int, _ count: Int) {
        let code = unsafe oracle_code().unsafelyUnwrapped
        for place in offset..<min(offset + count, Int(Place.codeSize)) { unsafe code[place] = 0xCC }
    }

    func run(_ input: inout oracle_state, extended: Bool) -> oracle_state {
        unsafe oracle_run(&input, extended ? 1 : 0)
        return unsafe oracle_result().unsafelyUnwrapped.pointee
    }

    var dataWindow: UnsafeMutableRawPointer {
        unsafe UnsafeMutableRawPointer(oracle_data().unsafelyUnwrapped)
    }
    var readOnlyWindow: UnsafePointer<UInt8> { unsafe UnsafePointer(oracle_read_only().unsafelyUnwrapped) }
}

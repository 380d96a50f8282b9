import LinuxHost

/// Lockstep mode (`--verify`): what one vCPU needs to check its translated code against the interpreter.
///
/// A check is two trials of one block from the same state, one translated and one interpreted, on copies of
/// the memory that they touch (LockstepTrial.swift). Then the state is put back and the block is executed as
/// if nothing had been: by the interpreter as long as its translation has not been checked
/// `Lockstep.firstChecks` times, so that nothing leads to it directly before.
///
/// Confinement: the vCPU's thread; `counts` also while it is not running.
final class Lockstep {
    /// Checks of a translation before it may run by itself. Later it is checked when its entries from the run
    /// loop come to a power of two.
    static let firstChecks: UInt8 = 8
    /// Memory that others change can make two trials differ: a difference counts when it stays.
    static let attempts = 3

    var pages: LockstepPages
    var counts = LockstepCounts()
    var plan = LockstepPlan()
    /// What a body that translated code called has left to say.
    var stop = Stop.none

    /// The state that the trials of the running check start from.
    var start: LockstepState?
    /// A trial came to memory that is a device.
    var touchedDevice = false

    /// Where a trial of translated code came out of the middle of an escape.
    enum Stop {
        case none
        /// The instruction of the op with this address is not checked, and was not executed.
        case before(UInt)
        /// The instruction ended the block.
        case after(UInt)
        /// The instruction raised `Fault.raw`.
        case fault(UInt, UInt64)
    }

    init() throws(HostError) {
        pages = try LockstepPages()
    }
}

/// Why a check says nothing.
enum LockstepDoubt: Int, CaseIterable {
    /// Somebody asked the vCPU to look up, and the trial ended for that.
    case attention
    /// Memory that is a device.
    case device
    /// More pages than `LockstepPages.capacity`.
    case pages
    /// The block's first instruction is one that is not tried twice, or one without a translation.
    case instruction
    /// The first instruction had to be left to the interpreter.
    case nothingDone
    /// An instruction's result is undefined, or depends on a flag that one before left undefined.
    case undefined
    /// The code's page changed, or there is no room to translate the block aside.
    case changed

    var name: String {
        switch self {
        case .attention: "interrupted"
        case .device: "device"
        case .pages: "too many pages"
        case .instruction: "instruction not tried twice"
        case .nothingDone: "left to the interpreter"
        case .undefined: "undefined results"
        case .changed: "code changed"
        }
    }
}

/// Of one vCPU, for `--stats`.
struct LockstepCounts {
    /// Translations with at least one conclusive check, and conclusive checks.
    var blocks = 0
    var checks = 0
    /// Conclusive checks that covered only the instructions before one that is not tried twice.
    var partial = 0
    /// Instructions compared.
    var instructions = 0
    var doubts = [Int](repeating: 0, count: LockstepDoubt.allCases.count)
    var differences = 0

    var summary: String {
        let reasons = LockstepDoubt.allCases.filter { doubts[$0.rawValue] != 0 }
            .map { "\($0.name) \(doubts[$0.rawValue])" }.joined(separator: ", ")
        return "\(blocks) blocks checked in \(checks) checks (\(instructions) instructions; \(partial) checks"
            + " of a part), \(doubts.reduce(0, +)) inconclusive\(reasons.isEmpty ? "" : ": \(reasons)");"
            + " \(differences) differences"
    }
}

internal import COracle
internal import Glibc
@testable internal import SoftCPU

/// Runs cases on both sides and compares them. One per process.
@safe final class Oracle {
    private let host: HostProcessor
    let soft: SoftProcessor
    /// Counts cases for the watchdog.
    private let progress: UnsafeMutablePointer<UInt64>
    private var template = [UInt64](repeating: 0, count: Int(Place.dataSize) / 8)
    private var templateKey: (UInt64, UInt64, Int) = (.max, .max, 0)

    /// - Parameter translated: the software CPU translates each case.
    /// - Parameter verified: it also compares each translated block with its interpreter.
    init(translated: Bool, verified: Bool) throws {
        host = try HostProcessor()
        soft = try SoftProcessor(
            globalTable: host.globalTable, readOnly: host.readOnlyWindow, translated: translated,
            verified: verified)
        // SAFETY: one word for the life of the process.
        unsafe progress = .allocate(capacity: 1)
        unsafe progress.initialize(to: 0)
        // SAFETY: both words live as long as the vCPU, which this object keeps.
        let offset = MemoryLayout<CPUState>.offset(of: \.attention).unsafelyUnwrapped
        let attention = unsafe UnsafeMutablePointer<UInt32>(bitPattern: soft.vcpu.cpu.address + UInt(offset))
        unsafe oracle_watch(
            progress, attention, SoftVCPU.Attention.exit,
            UnsafeMutableRawPointer(soft.vcpu.cpu.callLimit).assumingMemoryBound(to: UInt64.self))
    }

    /// Memory contents change every 256 cases.
    private func prepareTemplate(_ seed: UInt64, _ index: UInt64, _ mode: OracleMode) {
        let key = (seed, index >> 8, mode.rawValue)
        if key == templateKey { return }
        templateKey = key
        var random = Random(seed: seed, ~(index >> 8), UInt64(mode.rawValue))
        for word in template.indices {
            switch random.below(10) {
            case 0: template[word] = Place.landing + UInt64(random.below(Int(Place.landingSize)))
            case 1: template[word] = Place.data + UInt64(random.below(Int(Place.dataSize)))
            case 2:
                var value: UInt64 = 0
                for _ in 0..<4 { value = value << 16 | UInt64(StateAim.selector(&random)) }
                template[word] = value
            case 3, 4, 5: template[word] = random.floating()
            case 6:
                template[word] =
                    0x900 + UInt64(random.below(0x400)) | UInt64(StateAim.selector(&random)) << 32
            default: template[word] = random.corner()
            }
        }
    }

    /// Differences of one case, none when both sides agree.
    func run(
        _ test: OracleCase, seed: UInt64, index: UInt64
    ) -> (differences: [Difference], host: oracle_state) {
        unsafe progress.pointee &+= 1
        let setup = Setup.all[test.setup]
        prepareTemplate(seed, index, setup.mode)
        let bytes = test.bytes
        // Without room for the ending the breakpoints that fill the pages end the code, or the page fault
        // behind them.
        let ending = host.endings[setup.mode] ?? []
        let fits = test.codeOffset + bytes.count + ending.count <= Int(Place.codeSize)
        let written = fits ? bytes + ending : bytes
        host.write(written, at: test.codeOffset)
        soft.write(written, at: test.codeOffset)
        unsafe template.withUnsafeBytes { source in
            // SAFETY: the template has the window's size.
            let start = unsafe source.baseAddress.unsafelyUnwrapped
            unsafe host.dataWindow.copyMemory(from: start, byteCount: source.count)
            unsafe soft.load(data: start)
        }
        var input = test.input
        let hostResult = host.run(&input, extended: test.extended)
        let ours = soft.run(input, setup: test.setup, extended: test.extended)
        host.fillWithBreakpoints(test.codeOffset, written.count)
        soft.write([UInt8](repeating: 0xCC, count: written.count), at: test.codeOffset)
        let comparison = Comparison(test: test, host: hostResult, ours: ours, mode: setup.mode)
        if comparison.isModelSpecific { return ([], hostResult) }
        let memory = Comparison.memoryDifferences(unsafe UnsafeRawPointer(host.dataWindow), soft.dataWindow)
        return (comparison.differences() + memory, hostResult)
    }

    /// Drops instructions for as long as the rest still differs.
    func shrink(_ test: OracleCase, seed: UInt64, index: UInt64) -> OracleCase {
        var best = test
        var position = 0
        while position < best.instructions.count, best.instructions.count > 1 {
            var smaller = best
            smaller.instructions.remove(at: position)
            if run(smaller, seed: seed, index: index).differences.isEmpty {
                position += 1
            } else {
                best = smaller
            }
        }
        return best
    }
}

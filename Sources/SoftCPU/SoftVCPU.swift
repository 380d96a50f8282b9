import CGate
public import DeviceModel
public import GuestMemory
import LinuxHost
import Synchronization
public import VCPUEngine
public import X86Architecture

/// A memory region as the engine addresses it.
struct MemoryMapEntry: BitwiseCopyable {
    var start: UInt64
    var size: UInt64
    /// Host address of the first byte.
    var host: UInt
    /// Index of the first page in the `PageMap`.
    var firstPage: Int
    var isRAM: Bool
}

/// One virtual CPU that executes guest code in software.
///
/// Confinement: `run`, `state` and `load` on the vCPU's thread or while it is not running; `requestExit`,
/// `wake` and `forgetStores` on any thread.
public final class SoftVCPU: VCPU, @unchecked Sendable {
    public let index: Int
    let vcpuCount: Int
    /// Of the guest's time-stamp counter, in Hz.
    let tscFrequency: UInt64
    /// What the guest may see of the processor; nil: everything.
    let limits: ProcessorLimits?
    /// Nanoseconds that kvmclock is ahead of the time-stamp counter.
    var clockLead: UInt64 = 0
    let apic: any LocalInterruptController
    let platform: any VCPUPlatform
    let memory: GuestMemory
    let pages: PageMap
    let cpu: CPU
    let decoder: Decoder
    /// The instruction that was decoded last, for `BlockBuilder.swift`.
    var decoded = Instruction(mnemonic: .nop, row: 0)
    let flagUse: FlagUse
    var cache: BlockCache
    let codeLines: CodeLines
    /// nil: the interpreter executes everything. Constant, so that no reference is counted when it is used.
    let translations: TranslationCache?
    var followUp = TranslatedFollowUp()
    var largeCode = LargeCode()
    /// nil: translated code is not checked.
    private(set) var lockstep: Lockstep?
    /// Why the vCPU cannot go on.
    var failure: String?
    /// Where a debugger wants to stop.
    var debugging = Debugging()
    /// Page-map indices of written code; one of `.max` means all.
    let stalePages = Mutex<[Int]>([])
    /// Pages of code that this vCPU has no permission to store to, with their words of then.
    var markedPages: [Int: UInt32] = [:]
    /// Guest-physical page of the xAPIC registers, or all ones when it is off or in x2APIC mode.
    var apicPage: UInt64 = 0xFEE0_0000
    private let windows: StateWindows
    private let storage: MemoryMapping
    private let mapStorage: MemoryMapping
    private let mapCount: Int
    /// Address of `draftBytes` for the ops of a block in the making.
    let draftOps: UInt
    let parker = Parker()
    unowned let engine: SoftEngine
    private(set) var threshold: UInt16 = 16
    /// Pages of other vCPUs' new code that this one may still have permission to store to.
    let newCodePages = Mutex(NewCodePages())
    /// The last announcement that this vCPU has heeded.
    let heeded = Atomic<UInt64>(0)
    /// No guest code runs, nor will before announcements are heeded.
    let isOutside = Atomic<Bool>(true)
    /// The last announcement that every vCPU had heeded when this one looked.
    var settledAnnouncement: UInt64 = 0

    /// The last request to forget where device memory is, and the last that was heeded (DirectAccess.swift).
    let directRequest = Atomic<UInt64>(0)
    let directHeeded = Atomic<UInt64>(0)

    /// Reasons in `CPUState.attention`.
    enum Attention {
        /// Interrupts, signals or newly enabled delivery: look.
        static let events: UInt32 = 1
        static let exit: UInt32 = 2
        static let codePages: UInt32 = 4
        /// A breakpoint of a debugger was reached.
        static let debugger: UInt32 = 8
        /// Where device memory is must be forgotten.
        static let directMemory: UInt32 = 16
    }

    init(
        index: Int, engine: SoftEngine, apic: any LocalInterruptController, platform: any VCPUPlatform
    ) throws(HostError) {
        self.index = index
        self.engine = engine
        threshold = engine.translationThreshold
        self.vcpuCount = engine.vcpuCount
        self.tscFrequency = engine.tscFrequency
        self.limits = engine.limits
        self.apic = apic
        self.platform = platform
        self.memory = engine.memory
        self.pages = engine.memory.pages
        self.decoder = engine.decoder
        flagUse = FlagUse(engine.options)
        try VectorLowering.start()
        codeLines = try CodeLines(pages: engine.memory.pages.count, vcpuCount: engine.vcpuCount)
        windows = try StateWindows()
        storage = try MemoryMapping(anonymous: TLB.executionBytes + ExtendedState.allocationSize)
        let share = engine.codeCacheSize / max(1, engine.vcpuCount)
        cache = try BlockCache(size: share)
        translations =
            engine.translates
            ? try TranslationCache(size: share / 2, decoder: engine.decoder, options: engine.options) : nil
        let regions = engine.memory.regions
        mapCount = regions.count
        mapStorage = try MemoryMapping(anonymous: 4096 + Self.draftBytes)
        draftOps = unsafe UInt(bitPattern: mapStorage.base) + 4096
        precondition(regions.count * MemoryLayout<MemoryMapEntry>.stride <= 4096, "too many memory regions")
        cpu = CPU(address: windows.stateAddress)
        cpu.s.tlb = windows.firstTLB
        // SAFETY: the mapping is large enough for what is laid out in it here, page-aligned, and ours.
        cpu.s.executionTLB = unsafe UInt(bitPattern: storage.base)
        cpu.s.xsave = cpu.s.executionTLB + UInt(TLB.executionBytes)
        cpu.s.blockTable = cache.tableAddress
        cpu.s.hasOthers = engine.vcpuCount > 1
        for (slot, region) in regions.enumerated() {
            let entry = unsafe MemoryMapEntry(
                start: region.start, size: region.size,
                host: UInt(bitPattern: engine.memory.hostBase(region)),
                firstPage: region.firstPage, isRAM: region.kind == .ram)
            unsafe mapStorage.base.assumingMemoryBound(to: MemoryMapEntry.self)[slot] = entry
        }
        unsafe cpu.s.owner = UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque())
        if !engine.verifies {
            cpu.s.tlbUsed[StateWindows.trial] = 0
            cpu.s.targetsUsed[StateWindows.trial] = 0
        }
        cpu.flushTLB()
        if let translations { startTranslation(translations) }
        if engine.translates, engine.verifies {
            lockstep = try Lockstep()
            translations?.mayRedirect = false
        }
        load(VCPUState())
        if index != 0 { cpu.s.activity = .waitingForStartup }
        platform.addDirectMemoryUser(self)
    }

    /// The regions, without a reference count on the way.
    @inline(__always) var memoryMap: UnsafeBufferPointer<MemoryMapEntry> {
        // SAFETY: filled in init with `mapCount` entries; never changed.
        unsafe UnsafeBufferPointer(
            start: mapStorage.base.assumingMemoryBound(to: MemoryMapEntry.self), count: mapCount)
    }

    /// The region that holds the page at guest-physical `page`.
    @inline(__always) func region(at page: UInt64) -> MemoryMapEntry? {
        for entry in unsafe memoryMap where page &- entry.start < entry.size { return entry }
        return nil
    }

    // MARK: VCPU

    public var instructionCount: UInt64? {
        cpu.s.instructionCount &+ cpu.s.translated.instructionCount
    }

    public var statistics: [String] {
        [
            "vCPU \(index): \(instructionCount ?? 0) instructions, \(cache.blocksBuilt) blocks decoded,"
                + " cache emptied \(cache.flushes) times,"
                + " \(cpu.s.flushCount) TLB flushes, \(cpu.s.fillCount) TLB fills,"
                + " \(cpu.s.endsInMemory) interrupts ended in memory"
        ] + (lockstep.map { ["vCPU \(index): \($0.counts.summary)"] } ?? [])
    }

    public var timeStampCounter: UInt64 { ospite_rdtsc() &+ cpu.s.tscOffset }

    public func state() -> VCPUState {
        cpu.settleEndOfInterrupt()
        return cpu.saveState()
    }

    public func load(_ state: VCPUState) {
        cpu.loadState(state)
        refreshAPICPage()
    }

    public func requestExit() {
        cpu.setAttention(Attention.exit)
        parker.unpark()
    }

    public func wake() {
        cpu.setAttention(Attention.events)
        parker.unpark()
    }

    /// Another vCPU decodes code from `page`, by announcement `number`: this one must not store to it
    /// unnoticed any more. Nil: the announcement is its own, and only counts.
    func forgetStores(toPage page: UInt64?, number: UInt64) {
        newCodePages.withLock { new in
            new.number = number
            guard let page else { return }
            // Beyond this many the whole TLB goes, so that the list stays small.
            if new.pages.count < 64 { new.pages.append(page) } else { new.pages = [.max] }
        }
        cpu.setAttention(Attention.codePages)
    }

    /// Code in page `index` of the page map was written: what was made from it is stale.
    func forgetCode(inPage index: Int) {
        stalePages.withLock { pages in
            if pages.last == index || pages.first == .max { return }
            // A vCPU that sleeps comes to it late. Emptying the cache costs more than a long list.
            if pages.count < 2048 { pages.append(index) } else { pages = [.max] }
        }
        cpu.setAttention(Attention.codePages)
    }

    /// The same, if this vCPU has translations of the page; on its own thread.
    func forgetOwnCode(inPage index: Int) {
        guard let translations,
            translations.pages.hasCode(unsafe UInt(bitPattern: pages.address(index)))
        else { return }
        forgetCode(inPage: index)
    }

    /// IA32_APIC_BASE changed.
    func refreshAPICPage() {
        let base = apic.apicBase
        let enabled = base & (1 << 11) != 0, x2apic = base & (1 << 10) != 0
        apicPage = enabled && !x2apic ? base & 0x0000_FFFF_FFFF_F000 : .max
        cpu.flushTLB()
    }
}

/// The software CPU of one machine.
public final class SoftEngine: Engine, @unchecked Sendable {
    public let name = "software CPU"
    let memory: GuestMemory
    let vcpuCount: Int
    let tscFrequency: UInt64
    let codeCacheSize: Int
    let limits: ProcessorLimits?
    /// Translate what runs often; else interpret everything.
    let translates: Bool
    let options: TranslationOptions
    /// Translated code is checked against the interpreter.
    let verifies: Bool
    /// Runs of a block before it is translated.
    let translationThreshold: UInt16
    /// Where translated code gets its names.
    let perfMap: PerfMap?
    let decoder = Decoder()
    /// Serialises locked accesses that cross a page or reach a device, and stores that cross a page.
    let splitLock = Mutex<Void>(())
    /// Between a page's mark and its announcement nobody else may see the mark.
    private let marking = Mutex(())
    /// Number of the last announcement of code.
    let announcement = Atomic<UInt64>(0)
    private let vcpus = Mutex<[SoftVCPU]>([])

    /// - Parameter codeCacheSize: bytes for decoded code, shared out among the vCPUs.
    /// - Parameter perfMap: takes the names of translated code.
    /// - Parameter limits: what another engine's guest knows of its processor.
    /// - Parameter verifies: compares what translated code does with the interpreter, in the first runs of
    ///   each block and now and then later. A vCPU whose code differs ends with `Exit.failed`.
    public init(
        memory: GuestMemory, vcpuCount: Int, tscFrequency: UInt64, codeCacheSize: Int = 32 << 20,
        limits: ProcessorLimits? = nil, translates: Bool = true, options: TranslationOptions = [],
        verifies: Bool = false, translationThreshold: UInt16 = 32, perfMap: PerfMap? = nil
    ) {
        precondition((1...255).contains(vcpuCount), "1 to 255 vCPUs")
        self.memory = memory
        self.vcpuCount = vcpuCount
        self.tscFrequency = tscFrequency
        self.codeCacheSize = codeCacheSize
        self.limits = limits
        self.options = options
        self.verifies = verifies
        self.translationThreshold = translationThreshold
        self.perfMap = perfMap
        self.translates = translates && HostFeatures.shared.canTranslate
        memory.pages.onCodeStore { [weak self] index in self?.codeStored(inPage: index) }
    }

    public func makeVCPU(
        index: Int, apic: any LocalInterruptController, platform: any VCPUPlatform
    ) throws(EngineError) -> any VCPU {
        do throws(HostError) {
            let vcpu = try SoftVCPU(index: index, engine: self, apic: apic, platform: platform)
            vcpus.withLock { $0.append(vcpu) }
            return vcpu
        } catch {
            throw EngineError("the software CPU cannot start: \(error)")
        }
    }

    /// Counters of translated code for `--stats`, added up over the vCPUs, one line for each subject; none
    /// without translated code. Only while no vCPU runs.
    public var statistics: [String] {
        let parts = vcpus.withLock { $0 }.compactMap(\.translationStatistics)
        guard !parts.isEmpty else { return [] }
        return parts.reduce(into: TranslationStatistics(), +=).lines(frequency: tscFrequency)
    }

    private func codeStored(inPage index: Int) {
        guard translates else { return }
        vcpus.withLock { all in for vcpu in all { vcpu.forgetCode(inPage: index) } }
    }

    /// Marks the page at `physical`, number `index` of the page map, as one that vCPU `source` decodes code
    /// from, and tells the others if it was none. Whoever finds it marked may rely on that they were told.
    func markCode(_ index: Int, _ physical: UInt64, from source: Int) -> (word: UInt32, isNew: Bool) {
        guard vcpuCount > 1 else { return memory.pages.markCode(index) }
        return marking.withLock { _ in
            let result = memory.pages.markCode(index)
            if result.isNew { announceCode(page: physical, from: source) }
            return result
        }
    }

    /// `page` holds decoded code now: tells every vCPU but `source`.
    private func announceCode(page: UInt64, from source: Int) {
        vcpus.withLock { all in
            // Under the lock: numbers reach each vCPU in order.
            let number = announcement.wrappingAdd(1, ordering: .sequentiallyConsistent).newValue
            for vcpu in all {
                vcpu.forgetStores(toPage: vcpu.index == source ? nil : page, number: number)
            }
        }
    }

    /// Calls `body` for every vCPU but one.
    func forEachOther(than index: Int, _ body: (SoftVCPU) -> Void) {
        for vcpu in vcpus.withLock({ $0 }) where vcpu.index != index { body(vcpu) }
    }
}

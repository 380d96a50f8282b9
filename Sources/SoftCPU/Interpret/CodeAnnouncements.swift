import LinuxHost
import Synchronization

/// What a vCPU has still to heed.
struct NewCodePages {
    /// Guest-physical pages; one of `.max` means all.
    var pages: [UInt64] = []
    /// Number of the last announcement.
    var number: UInt64 = 0
}

/// How the vCPUs of a machine agree on which pages hold code.
///
/// A vCPU may store to a page without a word as long as nobody has decoded code from it. Whoever decodes the
/// first announces it, and the others give up their permission when they come to it, which is soon but not at
/// once: until then their stores go unnoticed, and count when they heed the announcement. Permissions in the
/// TLB say then to which pages they may have stored: what is dropped there before counts at once
/// (`CPU.dropPermission`). Nothing more is
/// needed for code that a processor is told of by a serialising instruction (SDM vol. 3 §9.1.3): that
/// instruction waits until everybody has heeded what was announced before.
extension SoftVCPU {
    /// Gives up permissions to store to pages of code. What was stored since the announcement counts now.
    func heedAnnouncements() {
        let new = newCodePages.withLock { new in
            defer { new.pages = [] }
            return new
        }
        for page in new.pages {
            if page == .max {
                cpu.flushWritesToCode()
            } else if cpu.flushWrites(toPhysicalPage: page), let region = region(at: page) {
                cpu.noteStore(page, region)
            }
        }
        // Last: whoever waits for it must find the stores noted.
        heeded.store(new.number, ordering: .sequentiallyConsistent)
    }

    /// Waits until every vCPU that runs has heeded all announcements so far. What they stored to code then
    /// has this vCPU's attention.
    @inline(__always) func awaitCodeAnnouncements() {
        guard vcpuCount > 1 else { return }
        let number = engine.announcement.load(ordering: .sequentiallyConsistent)
        if number != settledAnnouncement { awaitCodeAnnouncement(number) }
    }

    @inline(never)
    private func awaitCodeAnnouncement(_ number: UInt64) {
        engine.forEachOther(than: index) { other in
            while other.heeded.load(ordering: .sequentiallyConsistent) < number,
                !other.isOutside.load(ordering: .sequentiallyConsistent)
            {
                // It may be waiting for this one.
                heedAnnouncements()
                HostThread.yield()
            }
        }
        settledAnnouncement = number
    }
}

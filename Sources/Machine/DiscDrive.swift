internal import DiskImages
internal import LinuxHost
internal import StorageDevices
internal import Synchronization

/// A CD drive as the host sees it: the tray that the guest's controller has, and the image of the disc.
///
/// Confinement: any thread; changes come from the main thread.
final class DiscDrive: Sendable {
    /// From 0, in the order in which drives were asked for.
    let number: Int
    let tray: CDTray
    private let image: Mutex<RawImage?>

    init(number: Int, disc: Descriptor?) throws(HostError) {
        let image = try disc.map { disc throws(HostError) in try Self.image(disc, number, prefer: .ring) }
        self.number = number
        tray = CDTray(image.map { DiskBackend($0) })
        self.image = Mutex(image)
    }

    /// Puts `disc` into the drive, or takes out what is in it; the old disc is closed then.
    func change(to disc: Descriptor?) throws(BoardError) {
        let image: RawImage?
        do throws(HostError) {
            // A machine that runs makes no rings any more.
            image = try disc.map { disc throws(HostError) in try Self.image(disc, number, prefer: .threads) }
        } catch {
            throw BoardError("The disc cannot be used: \(error).")
        }
        guard tray.insert(image.map { DiskBackend($0) }) else {
            image?.close()
            throw BoardError(
                "The guest has locked the tray of CD drive \(number + 1): have it unmount or eject the disc.")
        }
        let old = self.image.withLock { current in
            defer { current = image }
            return current
        }
        old?.close()
    }

    func close() { image.withLock { $0 }?.close() }

    private static func image(
        _ disc: Descriptor, _ number: Int, prefer method: AsyncFileQueue.Method
    ) throws(HostError) -> RawImage {
        try RawImage(disc, readOnly: true, name: "cd\(number)", prefer: method)
    }
}

extension Board {
    /// CD drive `number`, from 0.
    func drive(_ number: Int) throws(BoardError) -> DiscDrive {
        guard !drives.isEmpty else {
            throw BoardError(
                "The machine has no CD drive: start it with --cdrom, for an empty one --cdrom none.")
        }
        guard drives.indices.contains(number) else {
            throw BoardError("The machine has no CD drive \(number + 1), but \(drives.count).")
        }
        return drives[number]
    }
}

internal import Glibc
internal import LinuxHost
internal import MachineSpec

/// Opens every file of a machine, checks what it is, and keeps the descriptors in the order in which they go
/// to the machine's process.
struct OpenedFiles {
    private(set) var descriptors: [Int32] = []
    /// Sockets that we created in the file system, to be removed at the end.
    private(set) var socketPaths: [String] = []

    mutating func add(_ descriptor: Int32) -> ResourceIndex {
        precondition(descriptors.count < 255, "a resource index is one byte")
        descriptors.append(descriptor)
        return ResourceIndex(UInt8(descriptors.count - 1))
    }

    /// A kernel or an initial RAM disk.
    mutating func addFile(_ path: String, option: String) throws(RunFailure) -> ResourceIndex {
        do throws(HostError) {
            let descriptor = try HostCall.open(path, O_RDONLY | O_NONBLOCK)
            let status = try HostCall.status(of: descriptor)
            guard status.st_mode & S_IFMT == S_IFREG else {
                throw HostError("\(path) is not a regular file", code: 0)
            }
            return add(descriptor)
        } catch {
            throw .host("\(option) cannot be used: \(error). Give a file that you may read.")
        }
    }

    /// A disk image or a block device, locked against other machines.
    mutating func addDisk(_ option: DiskOption, snapshot: Bool) throws(RunFailure) -> DiskSpec {
        let keepsImage = option.isReadOnly || option.isSnapshot || snapshot
        do throws(HostError) {
            let descriptor = try HostCall.open(
                option.path, (keepsImage ? O_RDONLY : O_RDWR) | O_NONBLOCK)
            let status = try HostCall.status(of: descriptor)
            let kind = status.st_mode & S_IFMT
            guard kind == S_IFREG || kind == S_IFBLK else {
                throw HostError("\(option.path) is neither a file nor a block device", code: 0)
            }
            HostCall.clearNonBlocking(descriptor)
            guard try HostCall.lock(descriptor, exclusive: !keepsImage) else {
                throw HostError("\(option.path) is in use by another machine", code: 0)
            }
            let size = lseek(descriptor, 0, SEEK_END)
            guard size >= 0 else { throw .last("measuring \(option.path)") }
            guard size >= 512 else {
                throw HostError("\(option.path) is smaller than one sector of 512 bytes", code: 0)
            }
            let image = add(descriptor)
            let overlay = option.isReadOnly || !keepsImage ? nil : add(try Self.nameless())
            return DiskSpec(
                image: image, overlay: overlay, byteCount: UInt64(size) / 512 * 512, format: option.format,
                bus: option.bus, isReadOnly: option.isReadOnly)
        } catch {
            throw .host(
                "--disk cannot be used: \(error). Give an image that no other machine uses and that you may "
                    + (keepsImage ? "read." : "write, or add ,readonly or ,snapshot."))
        }
    }

    /// A file without a name in the folder for large temporary files.
    private static func nameless() throws(HostError) -> Int32 {
        let temporaryFile: Int32 = 0o20200000  // O_TMPFILE, open(2)
        let folder = HostCall.environment("TMPDIR") ?? "/var/tmp"
        return try HostCall.open(folder, temporaryFile | O_RDWR, mode: 0o600)
    }

    /// `keyboard` is a pipe in place of standard input, when the terminal is in raw mode.
    mutating func addSerial(_ option: SerialOption, keyboard: Int32?) throws(RunFailure) -> SerialBackend {
        do throws(HostError) {
            switch option {
            case .none: return .none
            case .standardStreams:
                return .stream(input: add(keyboard ?? STDIN_FILENO), output: add(STDOUT_FILENO))
            case .file(let path):
                let descriptor = try HostCall.open(
                    path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK, mode: 0o666)
                HostCall.clearNonBlocking(descriptor)
                return .stream(input: nil, output: add(descriptor))
            case .unixSocket(let path):
                let socket = add(try HostCall.listen(at: path))
                socketPaths.append(path)
                return .listener(socket)
            }
        } catch {
            throw .host("--serial cannot be used: \(error). Give a path that you may write.")
        }
    }

    /// /dev/kvm, when the accelerator asks for it and the host has it.
    mutating func addKVM(_ accelerator: Accelerator) throws(RunFailure) -> ResourceIndex? {
        guard accelerator != .soft else { return nil }
        do throws(HostError) {
            return add(try HostCall.open("/dev/kvm", O_RDWR))
        } catch {
            guard accelerator == .kvm else { return nil }
            throw .host(
                "--accel kvm cannot be used: \(error). Use --accel soft, or ask for access to /dev/kvm.")
        }
    }

    /// The machine's process has its own copies now.
    mutating func closeAll() {
        for descriptor in descriptors where descriptor > STDERR_FILENO { _ = close(descriptor) }
        descriptors = []
    }

    func removeSockets() {
        for path in socketPaths { HostCall.removeFile(path) }
    }
}

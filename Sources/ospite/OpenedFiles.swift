internal import Glibc
internal import LinuxHost
internal import MachineSpec

/// Opens every file of a machine, checks what it is, and keeps the descriptors in the order in which they go
/// to the machine's process.
struct OpenedFiles {
    private(set) var descriptors: [Descriptor] = []
    /// Sockets that we created in the file system, to be removed at the end.
    private var socketPaths: [String] = []
    /// The file of `addPerfMap` before it has its name.
    private var perfMapPath: String?

    /// A FIFO or a device without a medium must not hold us up while we look at what it is.
    private static let carefully = O_NONBLOCK | O_NOCTTY

    private mutating func add(_ descriptor: Descriptor) -> ResourceIndex {
        precondition(descriptors.count < 255, "a resource index is one byte")
        descriptors.append(descriptor)
        return ResourceIndex(UInt8(descriptors.count - 1))
    }

    /// A socket for a debugger.
    mutating func addDebugger(at place: ViewerPlace) throws(RunFailure) -> ResourceIndex {
        do throws(HostError) {
            return add(try listen(at: place))
        } catch {
            throw .host("--gdb cannot be used: \(error). Give a free port, or a path that you may write.")
        }
    }

    /// What the machine shares with the process that shows its screen.
    mutating func addScreen(_ descriptor: Descriptor) -> ResourceIndex { add(descriptor) }

    /// A socket for viewers, which the machine's own process does not get, or for a debugger.
    mutating func listen(at place: ViewerPlace) throws(HostError) -> Descriptor {
        switch place {
        case .network(let host, let port):
            guard let address = NetworkAddress(host: host, port: port) else {
                throw HostError("'\(host)' is no address in numbers", code: 0)
            }
            return try Descriptor.listen(at: address)
        case .unixSocket(let path): return try listen(atPath: path)
        }
    }

    private mutating func listen(atPath path: String) throws(HostError) -> Descriptor {
        Self.removeAbandonedSocket(at: path)
        // Private from its birth: who connects types into the guest.
        let mask = umask(0o177)
        defer { _ = umask(mask) }
        let socket = try Descriptor.listen(unixPath: path)
        socketPaths.append(path)
        return socket
    }

    /// A kernel or an initial RAM disk.
    mutating func addFile(_ path: String, option: String) throws(RunFailure) -> ResourceIndex {
        do throws(HostError) {
            let file = try Descriptor.open(path, flags: O_RDONLY | Self.carefully)
            guard try file.facts().kind == .regular else {
                throw HostError("\(path) is not a regular file", code: 0)
            }
            return add(file)
        } catch {
            throw .host("\(option) cannot be used: \(error). Give a file that you may read.")
        }
    }

    /// The image of a disc for a machine that runs already: an ISO 9660 volume, or a UDF volume alone, which
    /// begins with an extended area there (ECMA-167 2/9.2).
    static func disc(_ path: String) throws(RunFailure) -> Descriptor {
        do throws(HostError) {
            let file = try Descriptor.open(path, flags: O_RDONLY | carefully)
            guard try file.facts().kind == .regular else {
                throw HostError("\(path) is not a regular file", code: 0)
            }
            guard let name = volumeName(file), ["CD001", "BEA01"].contains(name) else {
                throw HostError("\(path) is no image of a CD or DVD", code: 0)
            }
            try file.setNonBlocking(false)
            return file
        } catch {
            throw .host("The disc cannot be used: \(error). Give an ISO image that you may read.")
        }
    }

    /// What the first volume descriptor of a disc says it is (ECMA-119 §8.1.2); nil for what is too short.
    private static func volumeName(_ file: Descriptor) -> String? {
        var bytes = [UInt8](repeating: 0, count: 6)
        guard let count = try? file.read(at: 16 * 2048, into: &bytes), count == bytes.count else {
            return nil
        }
        return String(decoding: bytes[1...], as: UTF8.self)
    }

    /// Whether a file is the image of a CD: an ISO 9660 volume descriptor in sector 16 (ECMA-119 §8.1). What
    /// cannot be read is none, and whoever opens it says why.
    static func isDisc(_ path: String) -> Bool {
        guard let file = try? Descriptor.open(path, flags: O_RDONLY | carefully) else { return false }
        return volumeName(file) == "CD001"
    }

    /// An image that a package of the host's distribution has put there.
    mutating func addFirmware(_ path: String, package: String) throws(RunFailure) -> ResourceIndex {
        do throws(HostError) {
            return add(try Descriptor.open(path, flags: O_RDONLY | Self.carefully))
        } catch {
            throw .host("The firmware cannot be used: \(error). On Debian, install the package \(package).")
        }
    }

    /// The expansion ROM of a network card, as a package of the host's distribution has it.
    mutating func addCardROM(_ path: String, package: String) throws(RunFailure) -> ResourceIndex {
        do throws(HostError) {
            return add(try Descriptor.open(path, flags: O_RDONLY | Self.carefully))
        } catch {
            throw .host(
                "The network card's ROM cannot be used: \(error). On Debian, install the package \(package), "
                    + "or leave the ROM out with --net unplugged,rom=off.")
        }
    }

    /// A file of a UEFI's variables, locked against other machines. One that is missing begins as a copy of
    /// the template; without a path there is one that nobody sees and that goes with the machine.
    mutating func addVariables(_ path: String?, template: String) throws(RunFailure) -> ResourceIndex {
        do throws(HostError) {
            let file: Descriptor
            if let path { file = try Self.variables(at: path) } else { file = try Self.nameless() }
            try file.setNonBlocking(false)
            try Self.lock(file, exclusive: true, path: path ?? template)
            if try file.facts().size == 0 {
                let original = try Descriptor.open(template, flags: O_RDONLY | Self.carefully)
                var bytes = [UInt8](repeating: 0, count: Int(clamping: try original.facts().size))
                _ = try original.read(at: 0, into: &bytes)
                try file.write(bytes, at: 0)
            }
            return add(file)
        } catch {
            throw .host(
                "--uefi-vars cannot be used: \(error). Give a file that you may write, or a new name; the "
                    + "package ovmf holds the template.")
        }
    }

    private static func variables(at path: String) throws(HostError) -> Descriptor {
        let file = try Descriptor.open(path, flags: O_RDWR | O_CREAT | carefully, mode: 0o600)
        guard try file.facts().kind == .regular else {
            throw HostError("\(path) is not a regular file", code: 0)
        }
        return file
    }

    /// A file that is written from its beginning.
    mutating func addLog(_ path: String, option: String) throws(RunFailure) -> ResourceIndex {
        do throws(HostError) {
            let file = try Descriptor.open(
                path, flags: O_WRONLY | O_CREAT | O_TRUNC | Self.carefully, mode: 0o666)
            try file.setNonBlocking(false)
            return add(file)
        } catch {
            throw .host("\(option) cannot be used: \(error). Give a path that you may write.")
        }
    }

    /// A disk image or a block device, locked against other machines.
    mutating func addDisk(
        _ option: DiskOption, snapshot: Bool, option name: String = "--disk"
    ) throws(RunFailure) -> DiskSpec {
        let keepsImage = option.isReadOnly || option.isSnapshot || snapshot
        do throws(HostError) {
            let file = try Descriptor.open(
                option.path, flags: (keepsImage ? O_RDONLY : O_RDWR) | Self.carefully)
            let facts = try file.facts()
            guard facts.kind != .other else {
                throw HostError("\(option.path) is neither a file nor a block device", code: 0)
            }
            try file.setNonBlocking(false)
            try Self.lock(file, exclusive: !keepsImage, path: option.path)
            guard facts.size >= 512 else {
                throw HostError("\(option.path) is smaller than one sector of 512 bytes", code: 0)
            }
            let image = add(file)
            let overlay = option.isReadOnly || !keepsImage ? nil : add(try Self.nameless())
            return DiskSpec(
                image: image, overlay: overlay, byteCount: facts.size / 512 * 512, format: option.format,
                bus: option.bus, isReadOnly: option.isReadOnly, rootPort: option.rootPort)
        } catch {
            throw .host(
                "\(name) cannot be used: \(error). Give an image that no other machine uses and that you may "
                    + (keepsImage ? "read." : "write, or add ,readonly or ,snapshot."))
        }
    }

    private static func lock(_ file: Descriptor, exclusive: Bool, path: String) throws(HostError) {
        do throws(HostError) {
            try file.lock(exclusive: exclusive)
        } catch {
            guard error.code == EAGAIN || error.code == EACCES else { throw error }
            throw HostError("\(path) is in use by another machine", code: 0)
        }
    }

    /// A file without a name in the folder for large temporary files.
    private static func nameless() throws(HostError) -> Descriptor {
        let temporaryFile: Int32 = 0o20200000  // O_TMPFILE, open(2)
        let folder = HostCall.environment("TMPDIR") ?? "/var/tmp"
        return try Descriptor.open(folder, flags: temporaryFile | O_RDWR, mode: 0o600)
    }

    /// `keyboard` is a pipe in place of standard input, when the terminal is in raw mode.
    mutating func addSerial(
        _ option: SerialOption, _ name: String, keyboard: Descriptor?
    ) throws(RunFailure) -> SerialBackend {
        do throws(HostError) {
            switch option {
            case .none: return .none
            case .standardStreams:
                let input = add(keyboard ?? HostCall.standardInput)
                return .stream(input: input, output: add(HostCall.standardOutput))
            case .file(let path):
                let file = try Descriptor.open(
                    path, flags: O_WRONLY | O_CREAT | O_TRUNC | Self.carefully, mode: 0o666)
                try file.setNonBlocking(false)
                return .stream(input: nil, output: add(file))
            case .unixSocket(let path):
                return .listener(add(try listen(atPath: path)))
            }
        } catch {
            throw .host("\(name) cannot be used: \(error). Give a path that you may write.")
        }
    }

    /// A command line that was killed leaves its socket behind, and nobody answers there.
    private static func removeAbandonedSocket(at path: String) {
        // Connecting to what is no socket is refused too (unix(7)): never remove a file of somebody's.
        guard HostCall.isSocket(path) else { return }
        do throws(HostError) {
            _ = try Descriptor.connect(unixPath: path)
        } catch {
            if error.code == ECONNREFUSED { HostCall.removeFile(path) }
        }
    }

    /// /dev/kvm, when the accelerator asks for it and the host has it.
    mutating func addKVM(_ accelerator: Accelerator) throws(RunFailure) -> ResourceIndex? {
        guard accelerator != .soft else { return nil }
        do throws(HostError) {
            return add(try Descriptor.open("/dev/kvm", flags: O_RDWR))
        } catch {
            guard accelerator == .kvm else { return nil }
            throw .host(
                "--accel kvm cannot be used: \(error). Use --accel soft, or ask for access to /dev/kvm.")
        }
    }

    /// An empty file for the names of translated code, which gets its own when the number of the machine's
    /// process is known.
    mutating func addPerfMap() throws(RunFailure) -> ResourceIndex {
        let path = "/tmp/perf-ospite-\(getpid()).map"
        // What an earlier process of our number left.
        HostCall.removeFile(path)
        do throws(HostError) {
            let file = try Descriptor.open(path, flags: O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o600)
            perfMapPath = path
            return add(file)
        } catch {
            throw .host("--perf-map cannot be used: \(error). perf looks for the file in /tmp.")
        }
    }

    /// Names the map after the machine's process, as `perf` expects it, and says so.
    mutating func placePerfMap(process: pid_t) {
        guard let path = perfMapPath else { return }
        let name = "/tmp/perf-\(process).map"
        do throws(HostError) {
            try HostCall.renameFile(path, to: name)
            perfMapPath = nil
            Console.say("ospite: translated code gets its names in \(name).")
        } catch {
            Console.say("ospite: perf will not find the names of translated code: \(error).")
        }
    }

    /// Lets go of our copies; the machine's process has its own.
    mutating func closeAll() { descriptors = [] }

    /// Sockets, and a file that has not got its name.
    func removeLeftovers() {
        for path in socketPaths { HostCall.removeFile(path) }
        if let perfMapPath { HostCall.removeFile(perfMapPath) }
    }
}

internal import ArgumentParser
internal import Glibc
internal import LinuxHost
internal import MachineControl
internal import MachineSpec

/// `ospite disc`: another disc for a CD drive of a machine that runs.
struct DiscCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "disc", abstract: "Puts a disc into a machine's CD drive, or takes it out.",
        discussion: "A guest that uses the disc keeps the tray locked: unmount or eject it there first.")

    @Argument(help: "The machine's name.")
    var name: String

    @Argument(help: "The disc: an ISO image.")
    var file: String?

    @Flag(help: "Take the disc out.")
    var eject = false

    @Option(help: "Which CD drive, from 1, in the order of --cdrom.")
    var drive = 1

    func run() throws {
        try reporting { () throws(RunFailure) in
            guard (file == nil) == eject else { throw .usage("Give either a FILE or --eject.") }
            guard (1...255).contains(drive) else { throw .usage("--drive takes a number from 1 on.") }
            let disc = try file.map { file throws(RunFailure) in try OpenedFiles.disc(file) }
            let number = UInt8(drive - 1)
            try Self.ask(
                name, disc == nil ? .ejectDisc(drive: number) : .insertDisc(drive: number), disc)
        }
    }

    /// Longer than a guest's reads of the old disc take.
    private static let patience: Int32 = 30_000

    private static func ask(
        _ machine: String, _ command: MachineCommand, _ disc: Descriptor?
    ) throws(RunFailure) {
        let socket = try connect(machine)
        var answer: [UInt8] = []
        do throws(HostError) {
            _ = try DescriptorPassing.send(command.frame, disc.map { [$0] } ?? [], over: socket)
            var buffer = [UInt8](repeating: 0, count: 4096)
            while true {
                guard try socket.wait(forWriting: false, milliseconds: patience) else {
                    throw HostError("it does not answer", code: 0)
                }
                guard case .moved(let count) = try socket.read(into: &buffer) else { break }
                answer += buffer.prefix(count)
            }
        } catch {
            throw .host("The machine \(machine) cannot be asked: \(error).")
        }
        switch try? MachineReport(frame: answer) {
        case .discChanged: return
        case .discRefused(let sentence): throw .host(sentence)
        default: throw .host("The machine \(machine) ended, or is of another version of ospite.")
        }
    }

    private static func connect(_ machine: String) throws(RunFailure) -> Descriptor {
        guard (try? MachineName(machine)) != nil else {
            throw .usage("There is no machine of the name '\(machine)'.")
        }
        do throws(HostError) {
            return try Descriptor.connect(unixPath: try RuntimeFolder.controlSocket(of: machine))
        } catch {
            guard error.code == ENOENT || error.code == ECONNREFUSED else {
                throw .host("The machine \(machine) cannot be reached: \(error).")
            }
            throw .host("No machine of the name \(machine) is running: start it with --name \(machine).")
        }
    }
}

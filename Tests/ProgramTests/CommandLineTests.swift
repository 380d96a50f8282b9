import Foundation
import Testing

@Suite(.serialized) struct CommandLineTests {
    private let folder: ScratchFolder

    init() throws { folder = try ScratchFolder() }

    private func run(_ arguments: [String]) throws -> RunningProgram {
        try RunningProgram(BuiltPrograms.ospite, ["run"] + arguments, in: folder)
    }

    @Test(arguments: [
        (["--bogus"], "Unknown option"),
        (["--cpus", "many", "--kernel", "k"], "--cpus"),
        (["--cpus", "0", "--kernel", "k"], "1 to 255"),
        (["--memory", "lots", "--kernel", "k"], "not a size"),
        (["--memory", "1", "--kernel", "k"], "--memory must be"),
        (["--name", "../up", "--kernel", "k"], "--name"),
        (["--uuid", "1", "--kernel", "k"], "not a UUID"),
        (["--accel", "warp", "--kernel", "k"], "auto, kvm, soft"),
        (["--machine", "mac", "--kernel", "k"], "pc, micro"),
        (["--sandbox", "off", "--kernel", "k"], "on, log"),
        (["--serial", "tty", "--kernel", "k"], "use stdio"),
        (["--serial", "stdio", "--serial", "stdio", "--kernel", "k"], "Only one"),
        (["--serial", "stdio", "--console", "stdio", "--kernel", "k"], "Only one"),
        (["--console", "tty", "--kernel", "k"], "--console"),
        (["--disk", "d,format=qcow2", "--kernel", "k"], "raw"),
        (["--disk", "d,bus=esdi", "--kernel", "k"], "virtio, sata, ide, nvme, scsi or usb"),
        (["--cdrom", "d,bus=nvme"], "SATA or IDE"), (["--cdrom", "d,speed=8"], "does not know"),
        (["--boot", "cd,tape"], "disk, cd, floppy or net"), (["--boot", "cd,cd"], "is no order"),
        (["--floppy", "f,bus=ide"], "does not know"), (["--boot", "cd", "--kernel", "k"], "do not go with"),
        (["--kernel", "k"] + [String](repeating: "--cdrom=none", count: 7), "6 places"),
        (["--net", "user", "--kernel", "k"], "no networks yet"),
        (["--net", "unplugged,mac=01:00:00:00:00:00", "--kernel", "k"], "no address of a card"),
        (["--net", "unplugged,speed=9", "--kernel", "k"], "does not know 'speed=9'"),
        (["--net", "unplugged,root-port=1", "--kernel", "k"], "no root port 1"),
        (["--disk", "d,bus=nvme,root-port=9", "--kernel", "k"], "root-port=9 is none"),
        (["--disk", "d,bus=sata,root-port=1", "--pcie-root-ports", "1"], "bus=virtio or bus=nvme"),
        (["--pcie-root-ports", "9", "--kernel", "k"], "is 0 to 8"),
        (["--pcie-root-ports", "1", "--machine", "micro", "--kernel", "k"], "on a pc"),
        (["--display", "auto", "--kernel", "k"], "has no screen"),
        (["disk.img", "--video", "sdl"], "use one of vga, virtio"),
        (["disk.img", "--input", "mouse"], "use one of ps2, usb, virtio"),
        (["--kernel", "k", "--input", "usb"], "goes with a firmware"),
        (["--kernel", "k", "--input", "virtio"], "goes with a screen"),
        (["disk.img", "--display", "sdl"], "use none, auto, vnc=HOST:PORT"),
        (["disk.img", "--display", "vnc=:1x"], "is no place"),
        (["disk.img", "--display", "vnc=example.org:5900"], "in numbers"),
        (["disk.img", "--display", "vnc=0.0.0.0:5900"], "would let other hosts in"),
        (["disk.img", "--display", "vnc=:5900,websocket=[::]:5901"], "would let other hosts in"),
        (["disk.img", "--vnc-password-file", "p"], "goes with --display vnc"),
        (["--gdb", "0.0.0.0:1234", "--kernel", "k"], "to other hosts: use localhost"),
        (["--gdb", "example.org:1234", "--kernel", "k"], "in numbers"),
        (["--gdb", "1234", "--kernel", "k"], "is no place"),
        (["--gdb-wait", "--kernel", "k"], "goes with --gdb"),
        (["--firmware", "coreboot"], "use bios or uefi"),
        (["disk.img", "--uefi-vars", "v"], "goes with --firmware uefi"),
        (["disk.img", "--kernel", "k"], "choose one way to boot"),
        (["disk.img", "--machine", "micro"], "use --machine pc"),
        (["--verify", "--no-translate", "--kernel", "k"], "--verify"),
        (["--perf-map", "--no-translate", "--kernel", "k"], "--perf-map"),
        (["--append", "x"], "nothing to boot"),
        (["--idle", "--append", "x"], "go with --kernel"),
        ([], "nothing to boot"),
    ])
    func `wrong usage ends with 64 and one sentence`(arguments: [String], words: String) throws {
        let program = try run(arguments)
        #expect(program.status() == 64)
        #expect(program.errorText.contains(words), "\(program.errorText)")
        #expect(program.output.readDataToEndOfFile().isEmpty)
    }

    @Test func `a missing kernel is the host's error, not wrong usage`() throws {
        let program = try run(["--kernel", folder.path + "/nowhere"])
        #expect(program.status() == 1)
        #expect(program.errorText.hasPrefix("ospite: --kernel cannot be used:"))
    }

    @Test(arguments: [["--kernel", "/"], ["--kernel", "/dev/null"]])
    func `a kernel that is no file is refused`(arguments: [String]) throws {
        let program = try run(arguments)
        #expect(program.status() == 1)
        #expect(program.errorText.contains("not a regular file"))
    }

    @Test func `bytes pass through, the end of the input is not the end, the button is`() throws {
        let program = try run(["--idle"])
        let bytes = Data((0...255).map { UInt8($0) })
        program.input.write(bytes)
        #expect(program.output.readData(ofLength: 256) == bytes)
        try program.input.close()
        _ = try program.machineProcess()
        program.send(SIGTERM)
        #expect(program.status() == 0)
        #expect(program.output.readDataToEndOfFile().isEmpty)
        #expect(program.errorText.contains("power off"))
    }

    @Test func `killing the command line leaves no machine behind`() throws {
        let program = try run(["--idle", "--name", "orphan"])
        let machine = try program.machineProcess()
        #expect(RunningProgram.isAlive(machine))
        program.send(SIGKILL)
        #expect(program.status() == -SIGKILL)
        waitUntil("the machine ends") { !RunningProgram.isAlive(machine) }
        // What is left of the registration does not keep the name.
        let second = try run(["--idle", "--name", "orphan"])
        _ = try second.machineProcess()
        second.send(SIGTERM)
        #expect(second.status() == 0)
    }

    @Test func `a machine that dies is an error and a sentence`() throws {
        let program = try run(["--idle"])
        kill(try program.machineProcess(), SIGKILL)
        #expect(program.status() == 1)
        #expect(program.errorText.contains("ended by signal 9"))
    }

    @Test func `a name is taken once, and its folder goes with the machine`() throws {
        let first = try run(["--idle", "--name", "twin"])
        _ = try first.machineProcess()
        let registration = folder.path + "/ospite/twin/pid"
        let text = try String(contentsOfFile: registration, encoding: .utf8)
        #expect(text == "\(first.identifier)\n")
        let second = try run(["--idle", "--name", "twin"])
        #expect(second.status() == 1)
        #expect(second.errorText.contains("is running"))
        #expect(FileManager.default.fileExists(atPath: registration))
        first.send(SIGTERM)
        #expect(first.status() == 0)
        #expect(!FileManager.default.fileExists(atPath: folder.path + "/ospite/twin"))
    }

    @Test func `two machines do not write one disk, and may read it together`() throws {
        let disk = try folder.file("disk", bytes: 4096)
        let first = try run(["--idle", "--disk", disk])
        _ = try first.machineProcess()
        for suffix in ["", ",readonly", ",snapshot"] {
            let second = try run(["--idle", "--disk", disk + suffix])
            #expect(second.status() == 1)
            #expect(second.errorText.contains("in use by another machine"))
        }
        first.send(SIGTERM)
        #expect(first.status() == 0)
        let readers = try [",readonly", ",snapshot"].map { try run(["--idle", "--disk", disk + $0]) }
        for reader in readers { _ = try reader.machineProcess() }
        for reader in readers {
            reader.send(SIGTERM)
            #expect(reader.status() == 0)
        }
    }

    @Test func `a disk without a sector is refused`() throws {
        let program = try run(["--idle", "--disk", try folder.file("small", bytes: 511)])
        #expect(program.status() == 1)
        #expect(program.errorText.contains("smaller than one sector"))
    }

    @Test func `a serial socket is private and goes with the machine`() throws {
        let path = folder.path + "/serial"
        let program = try run(["--idle", "--serial", "unix:" + path])
        _ = try program.machineProcess()
        let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
        #expect(mode == 0o600)
        program.send(SIGTERM)
        #expect(program.status() == 0)
        #expect(!FileManager.default.fileExists(atPath: path))
    }

    @Test func `an abandoned serial socket is replaced, one in use and a file are not`() throws {
        let path = folder.path + "/serial"
        let killed = try run(["--idle", "--serial", "unix:" + path])
        let machine = try killed.machineProcess()
        killed.send(SIGKILL)
        #expect(killed.status() == -SIGKILL)
        waitUntil("the machine ends") { !RunningProgram.isAlive(machine) }
        #expect(FileManager.default.fileExists(atPath: path))
        let second = try run(["--idle", "--serial", "unix:" + path])
        _ = try second.machineProcess()
        let third = try run(["--idle", "--serial", "unix:" + path])
        #expect(third.status() == 1)
        #expect(third.errorText.contains("--serial cannot be used"))
        second.send(SIGTERM)
        #expect(second.status() == 0)
        let file = try folder.file("precious", bytes: 1)
        #expect(try run(["--idle", "--serial", "unix:" + file]).status() == 1)
        #expect(FileManager.default.fileExists(atPath: file))
    }

    @Test func `the machine's process refuses to be started by hand`() throws {
        let program = try RunningProgram(BuiltPrograms.machine, [], in: folder)
        #expect(program.status() == 64)
        #expect(program.errorText.contains("use ospite run"))
    }

    @Test func `the sandbox holds from the inside`() throws {
        let program = try RunningProgram(BuiltPrograms.machine, ["--sandbox-self-test"], in: folder)
        let text = String(decoding: program.output.readDataToEndOfFile(), as: UTF8.self)
        #expect(program.status() == 0, "\(text) \(program.errorText)")
        for threadClass in ["main", "vCPU", "deviceWorker", "timer", "control", "display"] {
            #expect(text.contains("\(threadClass): "))
        }
        #expect(text.matches(of: /all 8 forbidden calls fail/).count == 6, "\(text)")
    }
}

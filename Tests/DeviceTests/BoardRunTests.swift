import Foundation
import LinuxHost
import Synchronization
import Testing

@testable import Machine
@testable import MachineControl
@testable import MachineSpec

/// A machine inside this process, with its first serial port in a memory file.
final class InnerMachine: Sendable {
    let output: Descriptor
    private let inbox = RunInbox()
    private let reports = Mutex<[MachineReport]>([])
    private let status = Mutex<Int32?>(nil)
    private let ended = Semaphore()

    /// `ram` is in MiB; `first` the first descriptor number of its files.
    init(kernel: String, initialRAMDisk: String?, commandLine: String, cpus: Int, ram: UInt64, first: Int32)
        throws
    {
        output = try Descriptor.memory("serial", size: 0)
        var files = [try Descriptor.open(kernel, flags: O_RDONLY), try output.duplicate()]
        if let initialRAMDisk { files.append(try Descriptor.open(initialRAMDisk, flags: O_RDONLY)) }
        var spec = try BoardBench.spec(cpus: cpus)
        spec.memory = .mebibytes(ram)
        spec.options = [.debugExit, .noReboot]
        spec.serialPorts = [.stream(input: nil, output: ResourceIndex(1))]
        spec.boot = KernelBoot(
            kernel: ResourceIndex(0), initialRAMDisk: initialRAMDisk == nil ? nil : ResourceIndex(2),
            commandLine: commandLine)
        let resources = BoardFiles.resources(files, at: first)
        let start = spec
        _ = try HostThread(name: "machine") { self.run(start, resources) }
    }

    private func run(_ spec: MachineSpec, _ resources: MachineResources) {
        do {
            let machine = try RunningMachine(spec: spec, resources: resources, inbox: inbox) { report in
                self.reports.withLock { $0.append(report) }
            }
            let result = try machine.run()
            status.withLock { $0 = result }
        } catch {
            reports.withLock { $0.append(.failed("\(error)")) }
        }
        ended.signal()
    }

    func send(_ command: MachineCommand) { inbox.post(.command(command, nil)) }
    var isAsleep: Bool {
        allReports.contains { if case .notice(let text) = $0 { text.contains("sleeps") } else { false } }
    }
    var allReports: [MachineReport] { reports.withLock { $0 } }
    var text: String {
        var bytes = [UInt8](repeating: 0, count: 1 << 16)
        let count = (try? output.read(at: 0, into: &bytes)) ?? 0
        return String(decoding: bytes.prefix(count), as: UTF8.self)
    }
    /// Whether the end came within `milliseconds`.
    func wait(milliseconds: UInt64) -> Bool {
        ended.wait(until: HostTime.monotonic + milliseconds * 1_000_000)
    }
    var exitStatus: Int32? { status.withLock { $0 } }
}

/// What the repository's scripts make.
enum BoardScripts {
    static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().path

    /// Runs a command of the repository and returns its first line.
    @discardableResult static func run(_ words: [String]) throws -> String {
        let process = Process(), pipe = Pipe()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = words
        process.currentDirectoryURL = URL(fileURLWithPath: root)
        process.standardOutput = pipe
        try process.run()
        let data = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw CocoaError(.executableLoad) }
        return String(decoding: data, as: UTF8.self).split(separator: "\n").first.map(String.init) ?? ""
    }

    static func folder() throws -> String {
        let path = NSTemporaryDirectory() + "/ospite-board-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        return path
    }
}

@Suite(.serialized) struct BoardRunTests {
    /// Pauses and resumes until the machine ends. The limit only finds one that hangs: after some minutes for
    /// an interval of 3 ms, and half an hour for one of 100 ms. Returns how often.
    private func disturb(_ machine: InnerMachine, everyMilliseconds interval: UInt64) -> Int {
        var rounds = 0
        while !machine.wait(milliseconds: interval), rounds < 20_000 {
            machine.send(.pause)
            _ = machine.wait(milliseconds: 5)
            machine.send(.resume)
            rounds += 1
        }
        return rounds
    }

    @Test(arguments: [1, 2])
    func `pausing and resuming changes nothing that a guest computes`(cpus: Int) throws {
        let folder = try BoardScripts.folder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let guest = folder + "/guest"
        try BoardScripts.run([
            "nasm", "-f", "bin", "-w-number-overflow", "-DROUNDS=4000000", "-I", "Tests/Guests/machine/",
            "-o",
            guest, "Tests/Guests/machine/handover.asm",
        ])
        func outcome(paused: Bool) throws -> (String, Int32?, Int) {
            let machine = try InnerMachine(
                kernel: guest, initialRAMDisk: nil, commandLine: "do=\(cpus)", cpus: cpus, ram: 16,
                first: BoardFiles.first + 40)
            let rounds = paused ? disturb(machine, everyMilliseconds: 3) : 0
            if !paused { #expect(machine.wait(milliseconds: 60_000)) }
            return (machine.text, machine.exitStatus, rounds)
        }
        let calm = try outcome(paused: false), disturbed = try outcome(paused: true)
        #expect(calm.0.count == 18 && calm.1 == 1)
        #expect(disturbed.0 == calm.0 && disturbed.1 == calm.1)
        #expect(disturbed.2 > 2)
    }

    /// Starts Tests/Guests/machine/sleep.asm, in a machine of two vCPUs.
    private func sleeper(_ option: String, in folder: String, first: Int32) throws -> InnerMachine {
        let guest = folder + "/guest"
        try BoardScripts.run([
            "nasm", "-f", "bin", "-w-number-overflow", "-I", "Tests/Guests/machine/", "-o", guest,
            "Tests/Guests/machine/sleep.asm",
        ])
        return try InnerMachine(
            kernel: guest, initialRAMDisk: nil, commandLine: "do=\(option)", cpus: 2, ram: 16,
            first: BoardFiles.first + first)
    }

    /// "S", PM1's status, the PIC's mask after the reset, what memory keeps, CS.
    @Test func `a guest sleeps until the alarm of its clock, and memory keeps what it had`() throws {
        let folder = try BoardScripts.folder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let machine = try sleeper("a", in: folder, first: 80)
        #expect(machine.wait(milliseconds: 60_000))
        #expect(machine.text == "S84000000000812")
        #expect(machine.exitStatus == 0)
    }

    @Test(arguments: [false, true])
    func `the power button wakes a guest that sleeps`(isPaused: Bool) throws {
        let folder = try BoardScripts.folder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let machine = try sleeper("b", in: folder, first: isPaused ? 90 : 100)
        for _ in 0..<6000 where !machine.isAsleep { _ = machine.wait(milliseconds: 10) }
        #expect(machine.isAsleep)
        if isPaused {
            // A pause and its end do not wake anybody.
            machine.send(.pause)
            machine.send(.resume)
            machine.send(.pause)
        }
        #expect(!machine.wait(milliseconds: 300))
        machine.send(.powerButton)
        if isPaused {
            #expect(!machine.wait(milliseconds: 300))
            machine.send(.resume)
        }
        #expect(machine.wait(milliseconds: 60_000))
        #expect(machine.text == "S81000000000812")
        #expect(machine.exitStatus == 0)
    }

    @Test func `a kernel that is paused while it boots still boots, and its clock stood still meanwhile`()
        throws
    {
        let folder = try BoardScripts.folder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let version = try BoardScripts.run(["Scripts/newest-kernel"])
        try BoardScripts.run([
            "Scripts/make-initramfs", "--output", folder + "/initramfs", "--init", "Scripts/guest/test-init",
        ])
        let machine = try InnerMachine(
            kernel: "/boot/vmlinuz-\(version)", initialRAMDisk: folder + "/initramfs",
            commandLine: "console=ttyS0 quiet panic=-1 ospite.test=loops", cpus: 2, ram: 256,
            first: BoardFiles.first + 60)
        let rounds = disturb(machine, everyMilliseconds: 100)
        #expect(machine.exitStatus == 0)
        #expect(machine.allReports.contains(.exited(.poweredOff)), "\(machine.allReports.suffix(3))")
        #expect(machine.text.contains("RESULT loop on CPU 1: 8002000"))
        #expect(machine.text.contains("RESULT end"))
        // Nothing that a jump of a clock leads to.
        #expect(!machine.text.lowercased().contains("unstable") && !machine.text.contains("soft lockup"))
        #expect(rounds > 5)
    }
}

import Foundation
import Testing

extension BootTests {
    /// How machines end, other than by themselves.
    @Suite(.enabled(if: InstalledKernel.cloud.isThere, "\(InstalledKernel.cloud.problem ?? "")"))
    struct MachineEndTests {
        /// Milliseconds after the machine's process is there: at its start, in the decompressor, in the
        /// kernel.
        @Test(arguments: [0, 400, 3000])
        func `kill -9 of the owner in the middle of a boot leaves no machine`(delay: UInt32) throws {
            let folder = try ScratchFolder()
            let machine = try TestBoot(test: "idle", cpus: 4).start(in: folder)
            let process = try machine.machineProcess()
            usleep(delay * 1000)
            #expect(HostProcess.isAlive(process.identifier))
            machine.send(SIGKILL)
            #expect(try machine.status() == -SIGKILL)
            for _ in 0..<500 where HostProcess.isAlive(process.identifier) { usleep(10_000) }
            #expect(!HostProcess.isAlive(process.identifier))
        }

        @Test func `SIGTERM presses the power button and the guest powers off`() throws {
            let folder = try ScratchFolder()
            let machine = try TestBoot(test: "button").start(in: folder)
            try machine.wait(for: "RESULT waiting")
            machine.send(SIGTERM)
            #expect(try machine.status() == 0)
            #expect(
                machine.results.contains("the power button was pressed"), "\(GuestProblem("button", machine))"
            )
            #expect(machine.consoleText.contains("reboot: Power down"), "\(GuestProblem("button", machine))")
        }
    }

    @Suite struct MalformedKernelTests {
        /// Ways to spoil a kernel file, and whether they need one.
        enum Damage: String, CaseIterable, Sendable {
            case empty, text, zeroes, oneSector, half, hugeSetup, oldProtocol, elfHeaderOnly, elfWithoutEntry
            case gzip, folder
        }

        private static let kernel = try? Data(contentsOf: URL(fileURLWithPath: InstalledKernel.cloud.path))

        /// An ELF header for x86-64 with one program header (gABI, "ELF Header" and "Program Header").
        private static func executable(loadsAt address: UInt64) -> Data {
            var file = Data(count: 0x1000)
            file.replaceSubrange(0..<7, with: [0x7F, 0x45, 0x4C, 0x46, 2, 1, 1])
            func put(_ value: UInt64, _ width: Int, at offset: Int) {
                for index in 0..<width {
                    file[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * index))
                }
            }
            put(2, 2, at: 16)
            put(62, 2, at: 18)
            put(1, 4, at: 20)
            put(address, 8, at: 24)
            put(64, 8, at: 32)
            put(64, 2, at: 52)
            put(56, 2, at: 54)
            put(1, 2, at: 56)
            // PT_LOAD of one page at `address`.
            put(1, 4, at: 64)
            put(7, 4, at: 68)
            put(address, 8, at: 80)
            put(address, 8, at: 88)
            put(0x1000, 8, at: 96)
            put(0x1000, 8, at: 104)
            return file
        }

        /// The spoilt file; nil when it needs an installed kernel and there is none.
        private func file(_ damage: Damage) -> Data? {
            switch damage {
            case .empty: return Data()
            case .text: return Data("This is no kernel.\n".utf8)
            case .zeroes, .folder: return Data(count: 100_000)
            case .gzip: return Data([0x1F, 0x8B, 8, 0]) + Data(count: 1000)
            case .elfHeaderOnly: return Self.executable(loadsAt: 0x10_0000).prefix(64)
            case .elfWithoutEntry: return Self.executable(loadsAt: 0x7FFF_FFFF_F000)
            case .oneSector: return Self.kernel?.prefix(512)
            case .half: return Self.kernel.map { $0.prefix($0.count / 2) }
            case .hugeSetup: return Self.kernel?.prefix(20_000).changed(at: 0x1F1, to: 255)
            case .oldProtocol: return Self.kernel?.changed(at: 0x207, to: 1)
            }
        }

        @Test(arguments: Damage.allCases)
        func `a malformed kernel ends with status 1 and one sentence`(damage: Damage) throws {
            let folder = try ScratchFolder()
            guard let bytes = file(damage) else {
                try Test.cancel("\(InstalledKernel.cloud.problem ?? "")")
            }
            let kernel = damage == .folder ? folder.path : try folder.file("kernel", bytes)
            let machine = try GuestMachine(
                ["--accel", "soft", "--memory", "64M", "--kernel", kernel], in: folder, patience: 30)
            #expect(try machine.status() == 1)
            let text = machine.errorText
            print("\(damage): \(text.trimmingCharacters(in: .newlines))")
            #expect(text.hasPrefix("ospite: "))
            #expect(text.hasSuffix(".\n"))
            #expect(text.filter(\.isNewline).count == 1)
            #expect(machine.consoleText.isEmpty)
        }
    }
}

extension Data {
    fileprivate func changed(at offset: Int, to value: UInt8) -> Data {
        var copy = self
        copy[startIndex + offset] = value
        return copy
    }
}

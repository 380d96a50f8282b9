import Foundation
import Testing

/// The program of `Tests/Guests/debugger`, and gdb itself.
private enum Debuggee {
    static let tools = ["gdb", "nasm", "ld"]
    static let missing = tools.filter { !FileManager.default.isExecutableFile(atPath: "/usr/bin/" + $0) }

    /// Assembles and links it; returns the file.
    static func build(in folder: ScratchFolder) throws -> String {
        let source = GuestProgram.sources.appendingPathComponent("debugger/debuggee.asm").path
        let object = folder.path + "/debuggee.o", program = folder.path + "/debuggee"
        let assembly = try runTool(["nasm", "-f", "elf64", "-o", object, source], in: folder.path)
        try #require(assembly.status == 0, "\(assembly.output)")
        let link = try runTool(
            ["ld", "-Ttext=0x200000", "-e", "start", "-o", program, object], in: folder.path)
        try #require(link.status == 0, "\(link.output)")
        return program
    }

    static func start(
        _ options: [String], accelerator: String = "soft", in folder: ScratchFolder
    ) throws -> GuestMachine {
        try GuestMachine(
            ["--accel", accelerator, "--memory", "64M", "--no-reboot", "--kernel", try build(in: folder)]
                + ["--gdb", "unix:" + folder.path + "/gdb"] + options, in: folder, patience: 400)
    }

    /// Runs gdb on the machine with a script; returns what follows "RESULT " in its lines. The script prints
    /// with `printf "RESULT ..."`.
    static func script(
        _ script: String, hasSymbols: Bool = true, symbols: String? = nil, in folder: ScratchFolder
    ) throws -> [String] {
        let socket = folder.path + "/gdb"
        for _ in 0..<6000 where !FileManager.default.fileExists(atPath: socket) { usleep(10_000) }
        // The test's thread blocks signals, and its children inherit that. A machine on a slow host may take
        // longer for an answer than the two seconds that gdb waits by itself.
        let head = """
            python import signal; signal.pthread_sigmask(signal.SIG_SETMASK, [])
            set pagination off
            set confirm off
            \(hasSymbols ? "file \(symbols ?? folder.path + "/debuggee")" : "set architecture i386:x86-64")
            set remotetimeout 60
            target remote \(socket)

            """
        let file = try folder.file("script.gdb", Data((head + script + "\n").utf8))
        let run = try runTool(
            ["timeout", "-k", "5", "300", "gdb", "-nx", "-batch", "-x", file], in: folder.path)
        #expect(run.status == 0, "\(run.output)")
        if hasSymbols { #expect(!run.output.contains("warning:"), "\(run.output)") }
        let results = run.output.split(separator: "\n").compactMap { line in
            line.range(of: "RESULT ").map { String(line[$0.upperBound...]) }
        }
        if results.isEmpty { Issue.record("gdb said nothing:\n\(run.output)") }
        return results
    }
}

extension BootTests {
    /// gdb on whole machines.
    @Suite(.enabled(if: Debuggee.missing.isEmpty, "not installed: \(Debuggee.missing)"))
    struct DebuggerBootTests {
        @Test(arguments: [[], ["--no-translate"], ["--verify"]])
        func `gdb waits for a breakpoint, looks around, and lets the machine run to its end`(
            options: [String]
        ) throws {
            try lookAround(options, accelerator: "soft")
        }

        @Test(.enabled(if: AccelTests.hasKVM, AccelTests.withKVM))
        func `gdb does the same on KVM`() throws { try lookAround([], accelerator: "kvm") }

        private func lookAround(_ options: [String], accelerator: String) throws {
            let folder = try ScratchFolder()
            let machine = try Debuggee.start(
                ["--gdb-wait"] + options, accelerator: accelerator, in: folder)
            let results = try Debuggee.script(
                """
                printf "RESULT %d\\n", $pc == (long)&start
                break wait_loop
                continue
                printf "RESULT %d %d\\n", $pc == (long)&wait_loop, $_thread
                printf "RESULT %#lx %#lx %#x\\n", $r15, $rsp - (long)&stack_top, $cs
                printf "RESULT %#lx %#lx %#lx\\n", $cr0, $cr3 - (long)&top, $efer
                printf "RESULT %#lx %.1f %#x\\n", $xmm3.v2_int64[0], $st0, $mxcsr
                printf "RESULT %s\\n", (char *) &letters
                printf "RESULT %s\\n", (char *) (0xffffffff80000000 + (long) &letters)
                monitor physical on
                printf "RESULT %s\\n", (char *) &letters
                python
                try:
                    gdb.execute("x/1xb (char *) (0xffffffff80000000 + (long) &letters)")
                except gdb.MemoryError:
                    print("RESULT no such memory")
                end
                monitor physical off
                delete
                set var *(char *) &release = 1
                set $rbx = 0x42
                break work
                continue
                printf "RESULT %d %d\\n", $rbx >= 0x42, *(char *) &release
                finish
                printf "RESULT %d\\n", *(long *) &counter
                delete
                detach
                """, in: folder)
            #expect(
                results == [
                    "1", "1 1", "0x123456789abcdef 0 0x8", "0x80000013 0 0x500",
                    "0x123456789abcdef 1.0 0x1f80", "letters for the debugger", "letters for the debugger",
                    "letters for the debugger", "no such memory", "1 1", "103",
                ])
            #expect(try machine.status() == 0)
            #expect(machine.consoleLines.contains("DONE"))
        }

        @Test(arguments: AccelTests.hasKVM ? ["soft", "kvm"] : ["soft"])
        func `watchpoints stop behind the access, with the old and the new value`(
            accelerator: String
        ) throws {
            let folder = try ScratchFolder()
            let machine = try Debuggee.start(["--gdb-wait"], accelerator: accelerator, in: folder)
            let results = try Debuggee.script(
                """
                set var *(char *) &release = 1
                watch *(long *) &counter
                continue
                printf "RESULT %d %d\\n", *(long *) &counter, $pc - (long) &work_store
                continue
                printf "RESULT %d\\n", *(long *) &counter
                delete
                rwatch *(long *) &counter
                continue
                printf "RESULT %d\\n", $pc - (long) &work
                delete
                hbreak finish
                continue
                printf "RESULT %d %d\\n", *(long *) &counter, $pc == (long) &finish
                kill
                """, in: folder)
            #expect(results == ["103 8", "106", "8", "130 1"])
            #expect(try machine.status() == 0)
            #expect(!machine.consoleLines.contains("DONE"))
        }

        @Test func `no interrupt comes between steps, and they all come afterwards`() throws {
            let folder = try ScratchFolder()
            let machine = try Debuggee.start(["--gdb-wait"], in: folder)
            let results = try Debuggee.script(
                """
                break wait_loop
                continue
                delete
                set $strays = 0
                set $i = 0
                while $i < 300
                  stepi
                  if $pc < (long) &wait_loop || $pc > (long) &finish
                    set $strays = $strays + 1
                  end
                  set $i = $i + 1
                end
                printf "RESULT %d\\n", $strays
                break tick
                continue
                printf "RESULT %d\\n", $pc == (long) &tick
                set var *(char *) &release = 1
                """, in: folder)
            // The end of gdb is a detach.
            #expect(results == ["0", "1"])
            #expect(try machine.status() == 0)
            #expect(machine.consoleLines.contains("DONE"))
        }

        @Test func `two vCPUs are two threads, and Ctrl-C stops both`() throws {
            let folder = try ScratchFolder()
            let machine = try Debuggee.start(["--cpus", "2"], in: folder)
            try machine.wait(for: "READY")
            let results = try Debuggee.script(
                """
                shell (sleep 3; kill -INT $PPID) &
                continue
                info threads
                set $waits = $pc >= (long) &wait_loop && $pc < (long) &finish
                set $ticks = $pc >= (long) &tick && $pc < (long) &print
                printf "RESULT %d %d\\n", $_thread, $waits || $ticks
                thread 2
                printf "RESULT %#x %d\\n", $cs, $pc < 0x10
                stepi
                stepi
                stepi
                stepi
                thread 1
                set var *(char *) &release = 1
                """, in: folder)
            #expect(results.first == "1 1")
            #expect(results.last == "0x800 1")
            #expect(try machine.status() == 0)
        }

        @Test func `a debugger that goes without a word leaves no breakpoint behind`() throws {
            let folder = try ScratchFolder()
            let machine = try Debuggee.start([], in: folder)
            try machine.wait(for: "READY")
            _ = try Debuggee.script(
                """
                set breakpoint always-inserted on
                break work
                watch *(long *) &counter
                set var *(char *) &release = 1
                printf "RESULT left\\n"
                disconnect
                """, in: folder)
            #expect(try machine.status() == 0)
            #expect(machine.consoleLines.contains("DONE"))
        }
    }

    /// Symbols of a kernel, as it tells them itself: Debian keeps their file in a package of half a gigabyte.
    private enum KernelSymbols {
        private static let base: UInt64 = 0xFFFF_FFFF_8000_0000

        /// Starts a guest that says where `names` are, and makes a program file of that.
        static func file(_ names: [String], in folder: ScratchFolder) throws -> String {
            let boot = TestBoot(
                test: "symbols", words: "nokaslr ospite.names=" + names.joined(separator: ","))
            let machine = try boot.start(in: folder)
            #expect(try machine.status() == 0)
            var symbols: [String] = []
            for line in machine.consoleLines where line.hasPrefix("RESULT symbol ") {
                let words = line.split(separator: " ")
                let address = try #require(UInt64(words[2], radix: 16), "\(line)")
                try #require(address > base, "\(line)")
                symbols += ["--add-symbol", "\(words[4])=.kernel:\(address - base),function,global"]
            }
            try #require(symbols.count == 2 * names.count, "\(GuestProblem("symbols", machine))")
            // Room for a kernel without its bytes: gdb reads them in the guest.
            let room = "section .kernel nobits alloc exec\nresb 0x40000000\n"
            let source = try folder.file("kernel.asm", Data(room.utf8)), kernel = folder.path + "/kernel"
            for command in [
                ["nasm", "-f", "elf64", "-o", kernel + ".o", source],
                [
                    "ld", "--section-start=.kernel=0x" + String(base, radix: 16), "-e", "0",
                    "-o", kernel + ".elf", kernel + ".o",
                ],
                ["objcopy"] + symbols + [kernel + ".elf", kernel],
            ] {
                let run = try runTool(command, in: folder.path)
                try #require(run.status == 0, "\(run.output)")
            }
            return kernel
        }
    }

    @Suite(
        .enabled(
            if: InstalledKernel.cloud.isThere && Debuggee.missing.isEmpty,
            "\(InstalledKernel.cloud.problem ?? "") \(Debuggee.missing)"))
    struct DebuggedKernelTests {
        @Test func `gdb knows a kernel by its symbols, from its first function to its last`() throws {
            let folder = try ScratchFolder()
            let symbols = try KernelSymbols.file(
                ["start_kernel", "linux_banner", "kernel_power_off"], in: folder)
            let arguments = try TestBoot(test: "none", words: "nokaslr").arguments()
            let machine = try GuestMachine(
                arguments + ["--gdb", "unix:" + folder.path + "/gdb", "--gdb-wait"], in: folder,
                patience: 400)
            let results = try Debuggee.script(
                """
                hbreak *start_kernel
                continue
                python print("RESULT " + gdb.execute("info symbol $pc", to_string=True).strip())
                printf "RESULT %.13s\\n", (char *) &linux_banner
                delete
                break *kernel_power_off
                continue
                python print("RESULT " + gdb.execute("info symbol $pc", to_string=True).strip())
                delete
                """, symbols: symbols, in: folder)
            #expect(
                results == [
                    "start_kernel in section .kernel", "Linux version", "kernel_power_off in section .kernel",
                ]
            )
            #expect(try machine.status() == 0)
            #expect(machine.consoleText.contains("reboot: Power down"), "\(GuestProblem("none", machine))")
        }

        /// Where the kernel sleeps. A look may come upon its timer, or upon work that is left of the boot:
        /// the place is known when two looks in a row give the same.
        private func placeOfSleep(in folder: ScratchFolder) throws -> String {
            var last = ""
            for _ in 0..<50 {
                let looks = try Debuggee.script(
                    """
                    printf "RESULT %#lx\\n", $pc
                    detach
                    """, hasSymbols: false, in: folder)
                let place = try #require(looks.first)
                if place == last, place.hasPrefix("0xffffffff") { return place }
                last = place
                usleep(300_000)
            }
            throw AssetProblem(description: "the kernel was nowhere twice in a row; the last was \(last)")
        }

        @Test func `gdb steps and stops a running Linux, and it powers off as if nothing had been`() throws {
            let folder = try ScratchFolder()
            let arguments = try TestBoot(test: "button", cpus: 2).arguments()
            let machine = try GuestMachine(
                arguments + ["--gdb", "unix:" + folder.path + "/gdb"], in: folder, patience: 400)
            try machine.wait(for: "RESULT waiting")
            // An idle kernel comes back to where it sleeps; it need not be there when gdb comes.
            let place = try placeOfSleep(in: folder)
            let results = try Debuggee.script(
                """
                set $here = \(place)
                printf "RESULT %d\\n", ($cr0 >> 31) & 1
                stepi
                stepi
                stepi
                break *$here
                continue
                printf "RESULT %d\\n", $pc == $here
                continue
                printf "RESULT %d\\n", $pc == $here
                """, hasSymbols: false, in: folder)
            #expect(results == ["1", "1", "1"])
            machine.send(SIGTERM)
            #expect(try machine.status() == 0)
            #expect(machine.consoleText.contains("reboot: Power down"), "\(GuestProblem("button", machine))")
        }
    }
}

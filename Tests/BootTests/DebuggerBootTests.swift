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

    static func start(_ options: [String], in folder: ScratchFolder) throws -> GuestMachine {
        try GuestMachine(
            ["--accel", "soft", "--memory", "64M", "--no-reboot", "--kernel", try build(in: folder)]
                + ["--gdb", "unix:" + folder.path + "/gdb"] + options, in: folder, patience: 120)
    }

    /// Runs gdb on the machine with a script; returns what follows "RESULT " in its lines. The script prints
    /// with `printf "RESULT ..."`.
    static func script(
        _ script: String, hasSymbols: Bool = true, in folder: ScratchFolder
    ) throws -> [String] {
        let socket = folder.path + "/gdb"
        for _ in 0..<1000 where !FileManager.default.fileExists(atPath: socket) { usleep(10_000) }
        // The test's thread blocks signals, and its children inherit that.
        let head = """
            python import signal; signal.pthread_sigmask(signal.SIG_SETMASK, [])
            set pagination off
            set confirm off
            \(hasSymbols ? "file \(folder.path)/debuggee" : "set architecture i386:x86-64")
            target remote \(socket)

            """
        let file = try folder.file("script.gdb", Data((head + script + "\n").utf8))
        let run = try runTool(
            ["timeout", "-k", "5", "100", "gdb", "-nx", "-batch", "-x", file], in: folder.path)
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
            let folder = try ScratchFolder()
            let machine = try Debuggee.start(["--gdb-wait"] + options, in: folder)
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
                    "1 1", "103",
                ])
            #expect(try machine.status() == 0)
            #expect(machine.consoleLines.contains("DONE"))
        }

        @Test func `watchpoints stop behind the access, with the old and the new value`() throws {
            let folder = try ScratchFolder()
            let machine = try Debuggee.start(["--gdb-wait"], in: folder)
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
                shell (sleep 1; kill -INT $PPID) &
                continue
                info threads
                printf "RESULT %d %d\\n", $_thread, $pc >= (long) &wait_loop && $pc < (long) &finish
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

    @Suite(
        .enabled(
            if: InstalledKernel.cloud.isThere && Debuggee.missing.isEmpty,
            "\(InstalledKernel.cloud.problem ?? "") \(Debuggee.missing)"))
    struct DebuggedKernelTests {
        @Test func `gdb steps and stops a running Linux, and it powers off as if nothing had been`() throws {
            let folder = try ScratchFolder()
            let arguments = try TestBoot(test: "button", cpus: 2).arguments()
            let machine = try GuestMachine(
                arguments + ["--gdb", "unix:" + folder.path + "/gdb"], in: folder)
            try machine.wait(for: "RESULT waiting")
            // An idle kernel comes back to where it sleeps.
            let results = try Debuggee.script(
                """
                set $here = $pc
                printf "RESULT %d %d\\n", (unsigned long) $here >> 63, ($cr0 >> 31) & 1
                stepi
                stepi
                stepi
                break *$here
                continue
                printf "RESULT %d\\n", $pc == $here
                continue
                printf "RESULT %d\\n", $pc == $here
                """, hasSymbols: false, in: folder)
            #expect(results == ["1 1", "1", "1"])
            machine.send(SIGTERM)
            #expect(try machine.status() == 0)
            #expect(machine.consoleText.contains("reboot: Power down"), "\(GuestProblem("button", machine))")
        }
    }
}

import Foundation
import Testing

@testable import FirmwareTables

/// Intel's compiler reads our tables and compiles what it read (Debian package acpica-tools).
@Suite(.serialized) struct TableCompilerTests {
    private func run(_ arguments: [String], in folder: URL) throws -> (status: Int32, output: String) {
        let process = Process(), pipe = Pipe()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/iasl")
        process.arguments = arguments
        process.currentDirectoryURL = folder
        process.standardOutput = pipe
        process.standardError = pipe
        process.standardInput = FileHandle.nullDevice
        try process.run()
        let output = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return (process.terminationStatus, output)
    }

    @Test(arguments: SamplePlatform.allCases)
    func `iasl disassembles and recompiles every table without an error`(sample: SamplePlatform) throws {
        guard FileManager.default.isExecutableFile(atPath: "/usr/bin/iasl") else {
            print("not checked: iasl is absent; install acpica-tools")
            return
        }
        let folder = FileManager.default.temporaryDirectory
            .appendingPathComponent("ospite-tables-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        var checked = 0
        for table in try sample.place() where !table.name.hasPrefix("SMBIOS") {
            try Data(table.bytes).write(to: folder.appendingPathComponent(table.name + ".dat"))
            // The RSDP is not an ACPI table to iasl's loader; everything else is.
            guard table.name != "RSDP" else { continue }
            let disassembly = try run(["-d", table.name + ".dat"], in: folder)
            #expect(disassembly.status == 0, "\(disassembly.output)")
            #expect(!disassembly.output.contains("Invalid"), "\(disassembly.output)")
            let source = folder.appendingPathComponent(table.name + ".dsl")
            let compilation = try run(
                ["-oa", "-p", "again-" + table.name, source.lastPathComponent], in: folder)
            #expect(compilation.status == 0, "\(compilation.output)")
            #expect(compilation.output.contains(" 0 Errors"), "\(compilation.output)")
            if !compilation.output.contains(" 0 Warnings") { print(compilation.output) }
            if table.name == "DSDT" {
                let again = try Data(contentsOf: folder.appendingPathComponent("again-DSDT.aml"))
                // All but the header, where iasl signs as compiler.
                let isSame = again.dropFirst(36).elementsEqual(table.bytes.dropFirst(36))
                #expect(isSame, "iasl compiles its disassembly to other AML than ours")
            }
            checked += 1
        }
        // The micro machine has no MCFG and no HPET.
        #expect(checked == (sample == .micro ? 7 : 9))
    }
}

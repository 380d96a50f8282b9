// Turns Instructions.table into the Swift files that the decoder reads.
//
//     table-generator Sources/SoftCPU/Decode           writes Generated/
//     table-generator Sources/SoftCPU/Decode --check   exits with 1 when Generated/ is out of date
import Foundation

func fail(_ message: String) -> Never {
    FileHandle.standardError.write(Data((message + "\n").utf8))
    exit(1)
}

let arguments = CommandLine.arguments.dropFirst()
guard let folder = arguments.first, arguments.count <= 2 else {
    fail("usage: table-generator FOLDER [--check]")
}
do {
    let text = try String(contentsOfFile: folder + "/Instructions.table", encoding: .utf8)
    let table = try InstructionTable(parsing: text)
    for (name, content) in SourceEmitter(table: table).files() {
        let path = folder + "/Generated/" + name
        if arguments.contains("--check") {
            guard (try? String(contentsOfFile: path, encoding: .utf8)) == content else {
                fail("\(path) is not what the table says: run `swift run table-generator \(folder)`")
            }
        } else {
            try content.write(toFile: path, atomically: true, encoding: .utf8)
        }
    }
    print("\(table.rows.count) rows, \(table.mnemonics.count) mnemonics")
} catch {
    fail("\(error)")
}

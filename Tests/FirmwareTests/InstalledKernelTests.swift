import Glibc
import GuestMemory
import Testing

@testable import BootLoaders

/// The whole content of a file, or nil when it cannot be read.
func fileContent(_ path: String) -> [UInt8]? {
    guard let file = fopen(path, "rb") else { return nil }
    defer { fclose(file) }
    var content: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 1 << 20)
    while true {
        let count = fread(&chunk, 1, chunk.count, file)
        guard count > 0 else { return content }
        content += chunk[..<count]
    }
}

func filesMatching(_ pattern: String) -> [String] {
    var result = glob_t()
    defer { globfree(&result) }
    guard glob(pattern, 0, nil, &result) == 0 else { return [] }
    return (0..<Int(result.gl_pathc)).compactMap { result.gl_pathv[$0].map { String(cString: $0) } }
}

@Suite struct InstalledKernelTests {
    @Test func `the kernels of this host load by their own boot protocol`() throws {
        let paths = filesMatching("/boot/vmlinuz-*")
        if paths.isEmpty { print("not checked: /boot has no vmlinuz-*; install linux-image-cloud-amd64") }
        for path in paths {
            guard let kernel = fileContent(path) else {
                print("not checked: \(path) cannot be read by this user")
                continue
            }
            let memory = testMemory(mebibytes: 512)
            let initrd = [UInt8](repeating: 0x77, count: 12 << 20)
            let plan = try KernelImage.load(
                BootRequest(kernel: kernel, initrd: initrd, commandLine: "console=ttyS0"), into: memory)
            #expect(plan.bootProtocol == .linux64)
            let header = try LinuxSetupHeader(kernel)
            #expect(header.isRelocatable && header.preferredAddress == 0x100_0000)
            #expect(header.commandLineLimit == 2047 && header.headerEnd <= 0x290)
            let code = Array(kernel[header.setupSize...].prefix(1 << 20))
            #expect(try memory.bytes(GuestAddress(0x100_0000), count: code.count) == code)
            print(
                "\(path): protocol 2.\(header.version & 0xFF), \(header.memoryNeeded >> 20) MiB from 16 MiB")
        }
    }

    @Test func `memtest86+ loads when it is installed`() throws {
        let paths = filesMatching("/boot/memtest86+*.bin")
        if paths.isEmpty { print("not checked: memtest86+ is not installed") }
        for path in paths {
            guard let kernel = fileContent(path) else { continue }
            let plan = try KernelImage.load(BootRequest(kernel: kernel), into: testMemory())
            let is64Bit = path.contains("x64")
            #expect(plan.bootProtocol == (is64Bit ? .linux64 : .linux32))
            #expect(plan.entryPoint.raw == (is64Bit ? 0x10_0200 : 0x10_0000))
        }
    }
}

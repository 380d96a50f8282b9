internal import Foundation

/// A certificate for localhost that signs itself, made by OpenSSL's program, and its key. Value.
public struct TestCertificate: Sendable {
    /// PEM.
    public let certificate: [UInt8], key: [UInt8]
    /// The same key, encrypted.
    public let lockedKey: [UInt8]

    public struct Problem: Error, CustomStringConvertible {
        public let description: String
    }

    /// Makes one in a folder of its own, which is gone afterwards.
    public init() throws {
        let folder = FileManager.default.temporaryDirectory.appending(
            path: "certificate-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        try Self.openssl(
            [
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                "3650", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                "-keyout", "key", "-out", "certificate",
            ], in: folder)
        try Self.openssl(
            ["ec", "-in", "key", "-aes256", "-passout", "pass:xyzzy", "-out", "locked"], in: folder)
        func file(_ name: String) throws -> [UInt8] {
            Array(try Data(contentsOf: folder.appending(path: name)))
        }
        certificate = try file("certificate")
        key = try file("key")
        lockedKey = try file("locked")
    }

    private static func openssl(_ arguments: [String], in folder: URL) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
        process.arguments = arguments
        process.currentDirectoryURL = folder
        process.standardError = FileHandle.nullDevice
        process.standardOutput = FileHandle.nullDevice
        do { try process.run() } catch {
            throw Problem(description: "openssl cannot be run; install the package openssl")
        }
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            throw Problem(description: "openssl \(arguments[0]) ended with \(process.terminationStatus)")
        }
    }
}

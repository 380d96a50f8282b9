internal import NIOSSL

/// Why a certificate or its key cannot be used: the end of a sentence that says what to do.
public struct CertificateProblem: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String
}

/// Who a server is: a certificate, those between it and one that viewers trust, and its private key. TLS 1.2
/// and, for browsers, 1.3. Any thread.
public struct TLSIdentity: Sendable {
    let browserContext: NIOSSLContext, viewerContext: NIOSSLContext

    /// - Parameters:
    ///   - certificate: PEM, the server's own first.
    ///   - key: PEM, without a password. Other things in either are skipped, so that one file may hold both.
    public init(certificate: [UInt8], key: [UInt8]) throws(CertificateProblem) {
        guard let chain = try? NIOSSLCertificate.fromPEMBytes(certificate), !chain.isEmpty else {
            throw CertificateProblem(description: "there is no certificate in it; give one in PEM form")
        }
        // Nobody can be asked for the password of a key.
        let empty: NIOSSLPassphraseCallback<[UInt8]> = { setter in setter([]) }
        guard let key = try? NIOSSLPrivateKey(bytes: key, format: .pem, passphraseCallback: empty) else {
            throw CertificateProblem(
                description: "there is no private key for it; give one in PEM form that has no password")
        }
        var configuration = TLSConfiguration.makeServerConfiguration(
            certificateChain: chain.map { .certificate($0) }, privateKey: .privateKey(key))
        configuration.minimumTLSVersion = .tlsv12
        // Of TLS 1.2 what keeps its secrets when the key is lost, and what is authenticated encryption.
        configuration.cipherSuites = "ECDHE+AESGCM:ECDHE+CHACHA20"
        let newest = try? NIOSSLContext(configuration: configuration)
        // A server of TLS 1.3 sends tickets in front of its first words. Viewers on GnuTLS that take both out
        // of one packet wait for more and never look at the words (TigerVNC 1.12).
        configuration.maximumTLSVersion = .tlsv12
        guard let newest, let older = try? NIOSSLContext(configuration: configuration) else {
            throw CertificateProblem(
                description: "its private key belongs to another certificate; give those that go together")
        }
        browserContext = newest
        viewerContext = older
    }
}

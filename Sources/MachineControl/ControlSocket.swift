internal import Glibc
public import LinuxHost

/// One end of a control connection: a sequenced-packet Unix socket. Sending and receiving may
/// be on different threads; each packet is sent whole.
public final class ControlSocket: Sendable {
    /// For polling.
    public let descriptor: Descriptor

    public init(_ descriptor: Descriptor) { self.descriptor = descriptor }

    /// Sends one frame. Throws when the peer is gone, or when it does not read.
    public func send(_ frame: [UInt8]) throws(HostError) {
        while true {
            // SAFETY: the array's bytes stay valid during the call, and the count is its own.
            let sent = unsafe frame.withUnsafeBytes { bytes in
                unsafe Glibc.send(descriptor.number, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL))
            }
            if sent == frame.count { return }
            let error = HostError.last("sending a control message")
            guard error.code == EINTR else { throw error }
        }
    }

    /// Sends one frame with a descriptor.
    public func send(_ frame: [UInt8], _ attached: Descriptor) throws(HostError) {
        guard try DescriptorPassing.send(frame, [attached], over: descriptor) != nil else {
            throw HostError("sending a control message", code: EAGAIN)
        }
    }

    /// Waits for one frame, and the descriptor that came with it: of several none, and each is closed. Nil
    /// when the peer is gone.
    public func receiveWithDescriptor() throws(HostError) -> (frame: [UInt8], descriptor: Descriptor?)? {
        do throws(HostError) {
            let message = try DescriptorPassing.receive(
                from: descriptor, byteLimit: Wire.longestFrame, limit: 1)
            guard let message, !message.bytes.isEmpty else { return nil }
            return (message.bytes, message.wasTruncated ? nil : message.descriptors.first)
        } catch {
            if error.code == ECONNRESET { return nil }
            throw error
        }
    }

    /// Waits for one frame; nil when the peer is gone.
    public func receive() throws(HostError) -> [UInt8]? {
        var buffer = [UInt8](repeating: 0, count: Wire.longestFrame)
        while true {
            // SAFETY: the kernel writes at most the buffer's own count.
            let count = unsafe buffer.withUnsafeMutableBytes { bytes in
                unsafe recv(descriptor.number, bytes.baseAddress, bytes.count, 0)
            }
            if count > 0 { return Array(buffer.prefix(count)) }
            if count == 0 { return nil }
            let error = HostError.last("receiving a control message")
            if error.code == ECONNRESET { return nil }
            guard error.code == EINTR else { throw error }
        }
    }
}

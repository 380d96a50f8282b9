import Foundation
import ScreenSurface
import TestKit
import Testing

@testable import RFB

/// Whatever a viewer sends, its session neither traps nor grows. `OSPITE_FUZZ_ROUNDS` makes the walks longer.
@Suite struct HostileViewerTests {
    private static let rounds =
        max(ProcessInfo.processInfo.environment["OSPITE_FUZZ_ROUNDS"].flatMap { Int($0) } ?? 0, 4_000)

    /// A message that may be right, by its kind.
    private func message(_ random: inout TestRandom) -> [UInt8] {
        func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in random.byte() } }
        func small() -> [UInt8] { [0, random.byte()] }
        let encodings: [Int32] = [
            0, 1, 2, 5, 6, 7, 15, 16, -223, -224, -239, -240, -247, -256, -257, -258, -23, -32, -307, -308,
            -312, -313, -314, -1_063_131_698,
        ]
        switch random.below(12) {
        case 0:
            let bits: UInt8 = [8, 16, 32, 32, 32, 24][random.below(6)]
            let maximum: [UInt8] = [0, [1, 7, 31, 255, 254, 0][random.below(6)]]
            return [0, 0, 0, 0, bits, random.byte() & 31, random.byte() & 1, random.byte() & 1]
                + maximum + maximum + maximum + [
                    random.byte() & 31, random.byte() & 31, random.byte() & 31, 0, 0, 0,
                ]
        case 1:
            let count = random.below(24)
            let list = (0..<count).flatMap { _ in
                RFBTestViewer.big(Int(encodings[random.below(encodings.count)]), 4)
            }
            return [2, 0, 0, UInt8(count)] + list
        case 2, 3, 4: return [3, random.byte() & 1] + small() + small() + small() + small()
        case 5: return [3, random.byte() & 1] + bytes(8)
        case 6: return [4, random.byte() & 1, 0, 0, 0, 0] + [random.below(2) == 0 ? 0xFF : 0, random.byte()]
        case 7: return [5] + bytes(5)
        case 8: return [150, random.byte() & 1] + bytes(8)
        case 9:
            let count = UInt8(random.below(70))
            return [248, 0, 0, 0, random.byte() & 0x80, 0, 0, random.byte(), count] + bytes(Int(count))
        case 10:
            let screens = UInt8(random.below(4))
            return [251, 0] + bytes(4) + [screens, 0] + bytes(16 * Int(screens))
        default:
            return [
                255, UInt8(random.below(2)), 0, random.byte() & 1, 0, 0, 0, random.byte(), 0, 0, 0,
                random.byte(),
            ]
        }
    }

    @Test(arguments: 1...6 as ClosedRange<UInt64>)
    func `a viewer that sends anything, and reads or does not, cannot harm the server`(seed: UInt64) {
        var random = TestRandom(seed: seed)
        let screen = ScreenBench(300, 200)
        var session = makeSession(screen), sessions = 1, survived = 0, largest = 0
        for _ in 0..<Self.rounds {
            var bytes = message(&random)
            // Half of them mutated: cut, another byte, or noise.
            switch random.below(8) {
            case 0: bytes = Array(bytes.prefix(random.below(bytes.count + 1)))
            case 1: bytes[random.below(bytes.count)] = random.byte()
            case 2: bytes = (0..<random.below(64)).map { _ in random.byte() }
            default: break
            }
            if session.acceptsInput { session.receive(bytes[...]) }
            if random.below(8) == 0 {
                let side = 1 + random.below(64), pixel = UInt32(truncatingIfNeeded: random.next())
                screen.abilities = random.below(2) == 0 ? [] : .takesPositions
                screen.cursorShape += 1
                screen.cursor =
                    random.below(4) == 0
                    ? nil
                    : ScreenCursor(
                        pixels: [UInt32](repeating: pixel, count: side * side), width: side, height: side,
                        hotX: random.below(side), hotY: random.below(side), left: random.below(500) - 100,
                        top: random.below(400) - 100)
            }
            if random.below(4) == 0 {
                let part = ScreenRectangle(
                    x: random.below(250), y: random.below(150), width: 1 + random.below(50),
                    height: 1 + random.below(50)
                ).intersection(screen.bounds)
                let color = UInt32(truncatingIfNeeded: random.next())
                session.screenChanged(screen.draw(part) { x, y in color &+ UInt32(x / 5 * y) })
            }
            if random.below(200) == 0 {
                session.screenChanged(screen.resize(1 + random.below(400), 1 + random.below(300)))
            }
            session.process()
            session.fill()
            largest = max(largest, session.output.count)
            #expect(session.input.count <= 8192)
            #expect(session.takeEvents().count <= 5000)
            if random.below(3) != 0 { session.sent(random.below(session.output.count + 1)) }
            if session.closeReason == nil {
                survived += 1
            } else {
                session.disconnect()
                session = makeSession(screen)
                sessions += 1
            }
        }
        #expect(largest < 1 << 20)
        #expect(survived > Self.rounds / 2 && sessions > 3, "\(survived) of \(Self.rounds), \(sessions)")
    }

    private func makeSession(_ screen: ScreenBench) -> RFBSession {
        let session = RFBSession(
            RFBConfiguration(name: "x"), screen.framebuffer, challenge: [UInt8](repeating: 3, count: 16))
        session.receive((Array("RFB 003.008\n".utf8) + [1, 1])[...])
        session.sent(session.output.count)
        return session
    }

    @Test(arguments: [[0, 5, 7, 16], [7, -32]] as [[Int32]])
    func `a viewer of a large screen that never reads costs less than a mebibyte`(encodings: [Int32]) throws {
        let screen = ScreenBench(3840, 2160)
        _ = screen.draw(screen.bounds) { x, y in UInt32(truncatingIfNeeded: (x &* 7_919) ^ (y &* 104_729)) }
        let session = makeSession(screen)
        session.receive(
            ([2, 0, 0, UInt8(encodings.count)] + encodings.flatMap { RFBTestViewer.big(Int($0), 4) })[...])
        for _ in 0..<50 {
            session.receive([3, 0, 0, 0, 0, 0, 0x0F, 0, 0x08, 0x70])
            session.screenChanged(Framebuffer.Change(damage: [screen.bounds]))
            session.fill()
        }
        #expect(session.output.count > 0 && session.output.count < 1 << 20)
    }

    @Test func `a flood of fences from who does not read is not answered for ever`() {
        let session = makeSession(ScreenBench(64, 64))
        let fence: [UInt8] = [248, 0, 0, 0, 0x80, 0, 0, 1, 64] + [UInt8](repeating: 1, count: 64)
        var sent = 0
        while session.acceptsInput, sent < 100_000 {
            session.receive(fence[...])
            sent += 1
        }
        #expect(sent < 100_000 && session.output.count < 1 << 20)
    }

    @Test(arguments: 1...4 as ClosedRange<UInt64>)
    func `a browser that sends anything cannot harm the server`(seed: UInt64) {
        var random = TestRandom(seed: seed)
        let request = Array(
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n"
                + "Sec-WebSocket-Version: 13\r\n\r\n").utf8)
        var opened = 0
        for _ in 0..<Self.rounds {
            var socket = WebSocket(trustsAnyOrigin: true)
            var bytes = request
            for _ in 0..<random.below(3) { bytes[random.below(bytes.count)] = random.byte() }
            _ = socket.receive(bytes[...])
            if socket.isOpen { opened += 1 }
            for _ in 0..<8 {
                let header: [UInt8] = [
                    [0x82, 0x02, 0x80, 0x89, 0x88][random.below(5)], 0x80 | UInt8(random.below(128)),
                ]
                let noise = (0..<random.below(300)).map { _ in random.byte() }
                let result = socket.receive((header + noise)[...])
                #expect(result.payload.count <= 302)
            }
        }
        #expect(opened > Self.rounds / 4)
    }

    @Test(arguments: 1...3 as ClosedRange<UInt64>)
    func `a machine that sends anything over the link cannot harm the screen's process`(seed: UInt64) {
        var random = TestRandom(seed: seed)
        let framebuffer = Framebuffer()
        var accepted = 0
        for _ in 0..<Self.rounds {
            var bytes = ScreenLink.bytes(
                ScreenFrame(
                    width: 1 + random.below(300), height: 1 + random.below(200),
                    damage: (0..<random.below(5)).map { _ in
                        ScreenRectangle(
                            x: random.below(400), y: random.below(300), width: random.below(400),
                            height: random.below(300))
                    },
                    cursor: random.below(2) == 0
                        ? nil
                        : ScreenCursorNews(
                            shape: random.below(2) == 0 ? 0 : 1, width: random.below(67),
                            height: random.below(67), hotX: random.below(60), hotY: random.below(60),
                            left: random.below(70_000) - 35_000, top: random.below(70_000) - 35_000)))
            if random.below(2) == 0 { bytes[random.below(bytes.count)] = random.byte() & 3 }
            guard let frame = ScreenLink.frame(bytes), frame.width * frame.height < 1 << 17 else { continue }
            accepted += 1
            _ = framebuffer.apply(frame) { start, count, pixels, place in
                precondition(start >= 0 && (start + count) * 4 <= SurfaceMemory.fileSize)
                for index in 0..<count { pixels[place + index] = UInt32(start + index) }
            }
            var picture = framebuffer.copy(framebuffer.bounds)
            framebuffer.cursor?.blend(into: &picture, of: framebuffer.bounds)
        }
        #expect(accepted > Self.rounds / 4)
    }
}

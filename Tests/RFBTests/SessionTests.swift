import ScreenSurface
import TestKit
import Testing

@testable import RFB

@Suite struct SessionTests {
    private let screen = ScreenBench(200, 100)

    @Test(arguments: ["RFB 003.003\n", "RFB 003.007\n", "RFB 003.008\n"])
    func `viewers of every version come in`(version: String) throws {
        let bench = SessionBench(screen)
        try bench.viewer.connect(version: version)
        #expect(bench.viewer.name == "the guest" && bench.viewer.width == 200 && bench.viewer.height == 100)
        try bench.viewer.capture()
    }

    @Test(arguments: ["RFB 003.003\n", "RFB 003.007\n", "RFB 003.008\n"])
    func `the password lets in, and another does not`(version: String) throws {
        let password = VNCPassword(Array("sesame".utf8))
        let right = SessionBench(screen, password: password)
        try right.viewer.connect(version: version) { VNCPassword(Array("sesame".utf8)).response(to: $0) }
        #expect(!right.session.failedAuthentication)
        let wrong = SessionBench(screen, password: password)
        #expect(throws: RFBProblem.self) {
            try wrong.viewer.connect(version: version) { VNCPassword(Array("sesamE".utf8)).response(to: $0) }
        }
        #expect(wrong.session.failedAuthentication && wrong.session.closeReason != nil)
    }

    @Test func `nobody gets around the password by asking for none`() throws {
        let session = RFBSession(
            RFBConfiguration(name: "x", password: VNCPassword([1])), screen.framebuffer,
            challenge: [UInt8](repeating: 0, count: 16))
        session.receive(Array("RFB 003.008\n".utf8)[...])
        session.receive([1, 1])
        #expect(session.closeReason == "it wants another security type")
    }

    @Test func `a refusal is said`() throws {
        for version in ["RFB 003.003\n", "RFB 003.008\n"] {
            let bench = SessionBench(screen, refusal: "Not now.")
            let problem = #expect(throws: RFBProblem.self) { try bench.viewer.connect(version: version) }
            #expect(problem?.description == "Not now.")
        }
    }

    /// FIPS 46-3 examples: weak key, and the block of the standard's validation (SP 800-17).
    @Test func `DES enciphers as the standard does`() {
        func hex(_ number: UInt64) -> [UInt8] {
            (0..<8).map { UInt8(truncatingIfNeeded: number >> UInt64(56 - 8 * $0)) }
        }
        let cases: [(UInt64, UInt64, UInt64)] = [
            (0x1334_5779_9BBC_DFF1, 0x0123_4567_89AB_CDEF, 0x85E8_1354_0F0A_B405),
            (0x0101_0101_0101_0101, 0x8000_0000_0000_0000, 0x95F8_A5E5_DD31_D900),
            (0x8001_0101_0101_0101, 0x0000_0000_0000_0000, 0x95A8_D728_13DA_A94D),
            (0x7CA1_1045_4A1A_6E57, 0x01A1_D6D0_3977_6742, 0x690F_5B0D_9A26_939B),
        ]
        for (key, plain, cipher) in cases {
            #expect(DESCipher(key: hex(key)).encrypt(hex(plain)) == hex(cipher))
        }
    }

    @Test func `an update is sent when something changes, and only then`() throws {
        let bench = SessionBench(screen), viewer = bench.viewer
        try viewer.connect()
        try viewer.capture()
        try viewer.request(isIncremental: true)
        #expect(throws: SessionBench.NothingToRead.self) { try viewer.takeMessage() }
        #expect(bench.session.wantsFrames && !bench.session.needsFreshFrame)
        let part = ScreenRectangle(x: 50, y: 20, width: 10, height: 4)
        bench.session.screenChanged(screen.draw(part) { _, _ in 0xABCDEF })
        bench.session.fill()
        #expect(bench.session.output.count == 4 + 12 + part.area * 4)
        try viewer.takeMessage()
        #expect(bench.isUpToDate && !bench.session.wantsFrames)
    }

    @Test func `a request for everything waits for a picture of now`() throws {
        let bench = SessionBench(screen)
        try bench.viewer.connect()
        try bench.viewer.request(isIncremental: false)
        bench.session.fill()
        #expect(bench.session.output.isEmpty && bench.session.needsFreshFrame)
        bench.session.screenChanged(Framebuffer.Change(damage: []))
        bench.session.fill()
        #expect(bench.session.output.count == 4 + 12 + screen.pixels.count * 4)
    }

    @Test func `parts of the screen that nobody asked for wait`() throws {
        let bench = SessionBench(screen), viewer = bench.viewer
        try viewer.connect()
        try viewer.capture()
        bench.session.screenChanged(screen.draw(screen.bounds) { x, _ in UInt32(x) })
        try viewer.request(isIncremental: true, 0, 0, 100, 100)
        try viewer.takeMessage()
        #expect(viewer.pixels[99] == 99 && viewer.pixels[100] == 0)
        try viewer.request(isIncremental: true, 0, 0, 100, 100)
        #expect(throws: SessionBench.NothingToRead.self) { try viewer.takeMessage() }
        try viewer.request(isIncremental: true)
        try viewer.takeMessage()
        #expect(bench.isUpToDate)
    }

    @Test func `a slow viewer gets what is on the screen then, not what was`() throws {
        let bench = SessionBench(screen), viewer = bench.viewer
        try viewer.connect()
        try viewer.capture()
        for step in 1...500 {
            bench.session.screenChanged(screen.draw(screen.bounds) { _, _ in UInt32(step) })
            bench.session.fill()
        }
        #expect(bench.session.output.isEmpty)
        try viewer.request(isIncremental: true)
        try viewer.takeMessage()
        #expect(bench.isUpToDate)
        #expect(throws: SessionBench.NothingToRead.self) { try viewer.takeMessage() }
    }

    @Test(arguments: [[0, -223], [0, -308], [0, -223, -308]] as [[Int32]])
    func `another size of the screen is told`(encodings: [Int32]) throws {
        let screen = ScreenBench(200, 100), bench = SessionBench(screen), viewer = bench.viewer
        try viewer.connect()
        try viewer.setEncodings(encodings)
        try viewer.capture()
        try viewer.request(isIncremental: true)
        bench.session.screenChanged(screen.resize(320, 240))
        try viewer.takeMessage()
        #expect(viewer.width == 320 && viewer.height == 240)
        try viewer.capture()
        #expect(bench.isUpToDate)
        if encodings.contains(-308) { #expect(viewer.sizeAnswer?.reason == 0) }
    }

    @Test func `a viewer that cannot resize sees what fits`() throws {
        let screen = ScreenBench(200, 100), bench = SessionBench(screen), viewer = bench.viewer
        try viewer.connect()
        try viewer.setEncodings([5])
        try viewer.capture()
        bench.session.screenChanged(screen.resize(100, 300))
        try viewer.request(isIncremental: false)
        try viewer.takeMessage()
        #expect(viewer.width == 200 && viewer.pixels.count == 20_000)
        #expect(viewer.pixels[99] == 0x123456)
        bench.session.screenChanged(screen.resize(640, 480))
        try viewer.request(isIncremental: false)
        try viewer.takeMessage()
        let isFilled = viewer.pixels.allSatisfy { $0 == 0x123456 }
        #expect(isFilled)
    }

    @Test func `the screen may shrink in the middle of an update`() throws {
        let screen = ScreenBench(800, 400), bench = SessionBench(screen), viewer = bench.viewer
        try viewer.connect()
        try viewer.setEncodings([0, -223])
        try viewer.request(isIncremental: false)
        bench.session.screenChanged(Framebuffer.Change(damage: []))
        bench.session.fill()
        bench.session.screenChanged(screen.resize(64, 48))
        try viewer.takeMessage()
        #expect(viewer.width == 800)
        try viewer.capture()
        #expect(viewer.width == 64 && bench.isUpToDate)
    }

    @Test func `what lies beyond the screen is black`() {
        let screen = ScreenBench(64, 48)
        _ = screen.draw(screen.bounds) { _, _ in 7 }
        for (x, y, seen) in [(60, 40, 32), (64, 0, 0), (200, 0, 0), (0, 48, 0), (500, 500, 0)] {
            let pixels = screen.framebuffer.copy(ScreenRectangle(x: x, y: y, width: 8, height: 8))
            #expect(pixels.count == 64 && pixels.count { $0 == 7 } == seen)
        }
    }

    @Test func `a wish for another size is declined`() throws {
        let bench = SessionBench(screen), viewer = bench.viewer
        try viewer.connect()
        try viewer.setEncodings([0, -308])
        try viewer.capture()
        bench.session.receive(([251, 0, 4, 0, 3, 0, 1, 0] + [UInt8](repeating: 0, count: 16))[...])
        try viewer.request(isIncremental: true)
        try viewer.takeMessage()
        #expect(viewer.sizeAnswer?.reason == 1 && viewer.sizeAnswer?.status == 1 && viewer.width == 200)
    }

    /// The same screen, with what the guest can do.
    private func change(_ abilities: ScreenAbilities, _ screen: ScreenBench) -> Framebuffer.Change {
        screen.framebuffer.apply(
            ScreenFrame(width: screen.width, height: screen.height, damage: [], abilities: abilities)
        ) { _, _, _, _ in
        }
    }

    @Test func `a wish for another size goes to a guest that can, and its answer says by whom`() throws {
        let screen = ScreenBench(200, 100)
        let bench = SessionBench(screen), viewer = bench.viewer
        let other = SessionBench(screen)
        for each in [bench, other] {
            try each.viewer.connect()
            try each.viewer.setEncodings([0, -308])
            try each.viewer.capture()
            each.session.screenChanged(change(.takesSizes, screen))
            try each.viewer.request(isIncremental: true)
        }
        try viewer.setDesktopSize(320, 240)
        #expect(bench.session.takeEvents() == [.resize(width: 320, height: 240)])
        other.session.otherViewerWishes(width: 320, height: 240)
        try viewer.takeMessage()
        #expect(viewer.sizeAnswer?.reason == 1 && viewer.sizeAnswer?.status == 4 && viewer.width == 200)
        try viewer.request(isIncremental: true)
        let resized = screen.resize(320, 240)
        for (each, reason) in [(bench, 1), (other, 2)] {
            each.session.screenChanged(resized)
            try each.viewer.takeMessage()
            #expect(each.viewer.sizeAnswer?.reason == reason && each.viewer.sizeAnswer?.status == 0)
            #expect(each.viewer.width == 320 && each.viewer.height == 240)
        }
        // By the guest itself.
        try viewer.request(isIncremental: true)
        bench.session.screenChanged(screen.resize(200, 100))
        try viewer.takeMessage()
        #expect(viewer.sizeAnswer?.reason == 0 && viewer.width == 200)
    }

    @Test(
        arguments: [
            (200, 100, nil, 0), (0, 100, nil, 3), (100, 0, nil, 3), (65_535, 65_535, nil, 3),
            (300, 200, [], 3), (300, 200, [[0, 0, 300, 199]], 3),
            (300, 200, [[0, 0, 150, 200], [150, 0, 150, 200]], 3),
        ] as [(Int, Int, [[Int]]?, Int)])
    func `sizes that cannot be, and more than one screen, are refused`(
        width: Int, height: Int, layout: [[Int]]?, status: Int
    ) throws {
        let screen = ScreenBench(200, 100)
        let bench = SessionBench(screen), viewer = bench.viewer
        try viewer.connect()
        try viewer.setEncodings([0, -308])
        try viewer.capture()
        bench.session.screenChanged(change(.takesSizes, screen))
        try viewer.setDesktopSize(width, height, layout: layout)
        #expect(bench.session.takeEvents().isEmpty == (status != 0))
        try viewer.request(isIncremental: true)
        try viewer.takeMessage()
        #expect(viewer.sizeAnswer?.reason == 1 && viewer.sizeAnswer?.status == status)
    }

    @Test func `viewers hear whether positions or distances are wanted`() throws {
        let screen = ScreenBench(200, 100)
        let bench = SessionBench(screen), viewer = bench.viewer
        try viewer.connect()
        try viewer.setEncodings([0, -257])
        try viewer.capture()
        #expect(viewer.isAbsolute == false && viewer.seen[-257] == 1)
        for isAbsolute in [true, false] {
            bench.session.screenChanged(change(isAbsolute ? .takesPositions : [], screen))
            try viewer.request(isIncremental: true)
            try viewer.takeMessage()
            #expect(viewer.isAbsolute == isAbsolute)
        }
        try viewer.pointer(0, 0x7FFF + 2, 0x7FFF)
        #expect(bench.session.takeEvents() == [.move(ScreenMovement(right: 2))])
    }

    @Test func `extensions are offered to who knows them`() throws {
        let bench = SessionBench(screen), viewer = bench.viewer
        try viewer.connect()
        try viewer.setEncodings([16, -258, -257, -307, -308, -312, -313])
        try viewer.capture()
        try bench.drain()
        for encoding in [-258, -257, -307, -308] as [Int32] { #expect(viewer.seen[encoding] == 1) }
        #expect(viewer.endsOfContinuousUpdates == 1 && viewer.fences.count == 1)
        bench.session.receive([248, 0, 0, 0, 0x80, 0, 0, 7, 3, 9, 8, 7])
        try bench.drain()
        #expect(
            viewer.fences.count == 2 && viewer.fences[1].flags == 7 && viewer.fences[1].payload == [9, 8, 7])
        // And not twice.
        try viewer.setEncodings([16, -258, -257, -307, -308, -312, -313])
        try viewer.capture()
        #expect(viewer.seen[-258] == 1 && viewer.endsOfContinuousUpdates == 1)
    }

    @Test func `an update for who takes any length ends with a word, in every encoding`() throws {
        for encoding in [0, 5, 7, 16] as [Int32] {
            let screen = ScreenBench(700, 500)
            let bench = SessionBench(screen), viewer = bench.viewer
            try viewer.connect()
            try viewer.setEncodings([encoding, -224, -307])
            bench.session.screenChanged(screen.draw(screen.bounds) { x, y in UInt32(x * y) })
            try viewer.capture()
            #expect(bench.isUpToDate && viewer.seen[-224] == 1 && viewer.seen[-307] == 1)
            // With nothing but a name: a viewer asks for it anew by another list of encodings.
            try viewer.setEncodings([encoding, -224])
            try viewer.setEncodings([encoding, -224, -307])
            try viewer.request(isIncremental: true)
            try viewer.takeMessage()
            #expect(viewer.seen[-224] == 2 && viewer.seen[-307] == 2)
            try viewer.setEncodings([encoding])
            try viewer.capture()
            #expect(bench.isUpToDate && viewer.seen[-224] == 2)
        }
    }

    @Test func `fences, formats and lists of encodings wait for the end of an update`() throws {
        let screen = ScreenBench(800, 600)
        let bench = SessionBench(screen), viewer = bench.viewer
        try viewer.connect()
        try viewer.setEncodings([0, -312])
        bench.session.screenChanged(screen.draw(screen.bounds) { x, y in UInt32(x << 8 | y) })
        try viewer.capture()
        #expect(viewer.fences.count == 1)
        bench.session.screenChanged(screen.draw(screen.bounds) { x, y in UInt32(y << 12 ^ x) })
        try viewer.request(isIncremental: true)
        // A part of 1.9 MB is ready to be sent now.
        bench.session.fill()
        let isBegun = bench.session.output.count > 60_000 && bench.session.output.count < 1_000_000
        #expect(isBegun)
        bench.session.receive([248, 0, 0, 0, 0x80, 0, 0, 7, 1, 5])
        bench.session.receive([4, 1, 0, 0, 0, 0, 0, 0x61])
        bench.session.receive([2, 0, 0, 1, 0, 0, 0, 5])
        bench.session.receive([0, 0, 0, 0, 8, 6, 0, 1, 0, 3, 0, 3, 0, 3, 4, 2, 0, 0, 0, 0])
        #expect(bench.session.takeEvents().isEmpty)
        #expect(try viewer.takeMessage())
        #expect(bench.isUpToDate && viewer.fences.count == 1)
        try bench.drain()
        #expect(viewer.fences.count == 2 && viewer.fences[1].payload == [5])
        #expect(bench.session.takeEvents().count == 1)
        // What came behind counts: another format, another encoding.
        try viewer.setFormat(
            RFBTestViewer.Format(bits: 8, depth: 6, maxima: [3, 3, 3], shifts: [4, 2, 0]))
        try viewer.capture()
        #expect(bench.isUpToDate && viewer.seen[5] != nil)
    }

    @Test func `who sends on and on during an update is not read for ever`() throws {
        let screen = ScreenBench(800, 600)
        let bench = SessionBench(screen)
        try bench.viewer.connect()
        try bench.viewer.setEncodings([0, -312])
        try bench.viewer.capture()
        bench.session.screenChanged(screen.draw(screen.bounds) { x, y in UInt32(x << 8 | y) })
        try bench.viewer.request(isIncremental: true)
        bench.session.fill()
        var count = 0
        while bench.session.acceptsInput, count < 100_000 {
            bench.session.receive([248, 0, 0, 0, 0x80, 0, 0, 7, 1, 5])
            count += 1
        }
        #expect(count < 10_000)
        try bench.drain()
        #expect(bench.session.acceptsInput && bench.isUpToDate)
        #expect(bench.viewer.fences.count == count + 1)
    }

    @Test func `continuous updates need no requests until they end`() throws {
        let bench = SessionBench(screen), viewer = bench.viewer
        try viewer.connect()
        try viewer.setEncodings([0, -313])
        try viewer.capture()
        try viewer.enableContinuousUpdates(true)
        for step in 1...3 {
            bench.session.screenChanged(screen.draw(screen.bounds) { _, _ in UInt32(step) })
            try viewer.takeMessage()
            #expect(bench.isUpToDate)
        }
        try viewer.enableContinuousUpdates(false)
        bench.session.screenChanged(screen.draw(screen.bounds) { _, _ in 99 })
        try bench.drain()
        #expect(viewer.endsOfContinuousUpdates == 2 && viewer.pixels[0] == 3)
    }

    @Test func `a viewer with a colour map gets one`() throws {
        let bench = SessionBench(screen), viewer = bench.viewer
        try viewer.connect()
        bench.session.receive([0, 0, 0, 0, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        #expect(bench.session.output.count == 6 + 256 * 6)
        try bench.drain()
        try viewer.request(isIncremental: false)
        bench.session.screenChanged(Framebuffer.Change(damage: []))
        bench.session.fill()
        #expect(bench.session.output.count == 4 + 12 + screen.pixels.count)
    }

    @Test func `text for the clipboard is passed over, whatever its length says`() throws {
        let bench = SessionBench(screen)
        try bench.viewer.connect()
        bench.session.receive(([6, 0, 0, 0, 0, 0, 0, 5] + Array("hello".utf8))[...])
        // An extended clipboard's length is negative.
        bench.session.receive(([6, 0, 0, 0] + RFBTestViewer.big(-4, 4) + [1, 2, 3, 4])[...])
        try bench.viewer.capture()
        #expect(bench.session.closeReason == nil)
        for length in [0x7FFF_FFFF, 0x8000_0000, 0x0100_0001] {
            let other = SessionBench(screen)
            try other.viewer.connect()
            other.session.receive(([6, 0, 0, 0] + RFBTestViewer.big(length, 4))[...])
            #expect(other.session.closeReason != nil)
        }
    }
}

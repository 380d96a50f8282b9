import TestKit
import Testing

@testable import RFB

@Suite struct VeNCryptTests {
    private static let version = Array("RFB 003.008\n".utf8)

    /// Both sides of a negotiation, and what the relay said to each so far.
    private struct Talk {
        var relay = VeNCryptRelay()
        var viewer: [UInt8] = [], screen: [UInt8] = []

        init() { collect() }
        mutating func viewerSays(_ bytes: [UInt8]) {
            relay.receiveFromViewer(bytes[...])
            collect()
        }
        mutating func screenSays(_ bytes: [UInt8]) {
            relay.receiveFromScreen(bytes[...])
            collect()
        }
        private mutating func collect() {
            viewer += relay.takeOutputForViewer()
            screen += relay.takeOutputForScreen()
        }
    }

    private static func reason(_ text: String) -> [UInt8] { [0, 0, 0, UInt8(text.utf8.count)] + text.utf8 }

    @Test(arguments: [(1, 260), (2, 261)] as [(UInt8, Int)], [1, 100])
    func `a viewer is offered the subtype that suits the screen, and TLS begins`(
        types: (screen: UInt8, subtype: Int), piece: Int
    ) {
        var talk = Talk()
        let subtype = RFBTestViewer.big(types.subtype, 4)
        let viewer = Self.version + [19, 0, 2] + subtype + [0x16, 3, 1]
        let screen = Self.version + [1, types.screen] + [7, 7, 7]
        for start in stride(from: 0, to: screen.count, by: piece) {
            talk.screenSays(Array(screen[start..<min(start + piece, screen.count)]))
        }
        for start in stride(from: 0, to: viewer.count, by: piece) {
            talk.viewerSays(Array(viewer[start..<min(start + piece, viewer.count)]))
        }
        #expect(talk.relay.outcome == .encrypts)
        #expect(talk.viewer == Self.version + [1, 19, 0, 2, 0, 1] + subtype + [1])
        #expect(talk.screen == Self.version + [types.screen])
        #expect(talk.relay.viewerRest == [0x16, 3, 1] && talk.relay.screenRest == [7, 7, 7])
    }

    @Test func `nothing is offered before the screen has said whom it lets in`() {
        var talk = Talk()
        talk.viewerSays(Self.version + [19])
        #expect(talk.viewer == Self.version && talk.relay.outcome == .negotiating)
        talk.screenSays(Self.version + [2, 1, 2])
        #expect(talk.viewer == Self.version + [1, 19, 0, 2])
        #expect(talk.screen == Self.version + [2], "with a password, when there is one")
    }

    @Test(
        arguments: [("RFB 003.003\n", [0, 0, 0, 0]), ("RFB 003.007\n", [0]), ("RFB 003.008\n", [0])]
            as [(String, [UInt8])], [true, false])
    func `a screen that lets nobody in tells the viewer why`(
        viewer: (version: String, answer: [UInt8]), isViewerFirst: Bool
    ) {
        var talk = Talk()
        let refusal = Self.version + [0] + Self.reason("Wait.")
        if isViewerFirst { talk.viewerSays(Array(viewer.version.utf8)) }
        talk.screenSays(refusal)
        #expect(talk.relay.isRefused && !talk.relay.acceptsScreenBytes)
        if !isViewerFirst {
            #expect(talk.relay.outcome == .negotiating)
            talk.viewerSays(Array(viewer.version.utf8))
        }
        #expect(talk.relay.outcome == .over("it may not connect"))
        #expect(talk.viewer == Self.version + viewer.answer + Self.reason("Wait."))
    }

    @Test(
        arguments: [("RFB 003.003\n", [0, 0, 0, 0]), ("RFB 003.007\n", [0]), ("RFB 003.889\n", nil)]
            as [(String, [UInt8]?)])
    func `viewers of old protocols are told that there is encryption only`(
        version: String, answer: [UInt8]?
    ) {
        var talk = Talk()
        talk.screenSays(Self.version + [1, 1])
        talk.viewerSays(Array(version.utf8))
        guard let answer else {
            // What is unknown is the last version that is known.
            #expect(talk.viewer == Self.version + [1, 19])
            return
        }
        #expect(talk.relay.outcome == .over("it may not connect"))
        #expect(talk.viewer.starts(with: Self.version + answer))
        #expect(String(decoding: talk.viewer, as: UTF8.self).contains("VeNCrypt"))
    }

    @Test(
        arguments: [
            (Array("GET / HTTP/1.1\r\n".utf8), [], "it is no viewer"),
            (version + [1], [1, 19, 0, 0, 0, 1], "it wants another security type"),
            (version + [19, 0, 1], [1, 19, 0, 2, 1], "it knows another VeNCrypt"),
            (
                version + [19, 0, 2, 0, 0, 1, 0], [1, 19, 0, 2, 0, 1, 0, 0, 1, 5, 0],
                "it wants another subtype"
            ),
        ] as [([UInt8], [UInt8], String)])
    func `a viewer that wants something else goes`(says: [UInt8], answer: [UInt8], reason: String) {
        var talk = Talk()
        talk.screenSays(Self.version + [1, 2])
        talk.viewerSays(says)
        #expect(talk.relay.outcome == .over(reason))
        #expect(talk.viewer.starts(with: Self.version + answer))
    }

    @Test(arguments: [
        Array("RFB 003.007\n".utf8), Array("hello, hello".utf8), version + [1, 16], version + [3, 5, 6, 18],
    ])
    func `a screen that says something else is not believed`(says: [UInt8]) {
        var talk = Talk()
        talk.viewerSays(Self.version)
        talk.screenSays(says)
        guard case .over = talk.relay.outcome else {
            Issue.record("\(talk.relay.outcome)")
            return
        }
        #expect(talk.viewer == Self.version)
    }

    @Test func `whatever both say, little of it is kept`() {
        var random = TestRandom(seed: 19), ends = 0
        let viewerWords: [[UInt8]] = [Self.version, [19], [0, 2], [0, 0, 1, 4], [0, 0, 1, 5], [0]]
        let screenWords: [[UInt8]] = [Self.version, [1, 1], [1, 2], [0], [0, 0, 0, 9], [255]]
        for _ in 0..<3_000 {
            var talk = Talk()
            for _ in 0..<40 where talk.relay.outcome == .negotiating {
                let isViewer = random.below(2) == 0
                var bytes = (isViewer ? viewerWords : screenWords)[random.below(6)]
                if random.below(8) == 0 { bytes += (0..<random.below(900)).map { _ in random.byte() } }
                if isViewer, talk.relay.acceptsViewerBytes { talk.viewerSays(bytes) }
                if !isViewer, talk.relay.acceptsScreenBytes { talk.screenSays(bytes) }
                #expect(talk.relay.viewerRest.count < 2048 && talk.relay.screenRest.count < 2048)
                #expect(talk.viewer.count < 2048 && talk.screen.count < 64)
            }
            if talk.relay.outcome != .negotiating { ends += 1 }
        }
        #expect(ends > 1_000)
    }
}

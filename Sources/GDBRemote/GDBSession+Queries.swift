internal import X86Architecture

/// What gdb asks and sets about the connection.
extension GDBSession {
    mutating func answer(_ fields: inout PacketFields, _ target: inout some DebugTarget) {
        if fields.skip("Supported") {
            negotiate(fields.takeAll())
        } else if fields.skip("Xfer:features:read:target.xml:") {
            sendDescription(&fields)
        } else if fields.skip("Xfer:features:read:") {
            reply("E00")
        } else if fields.skip("fThreadInfo") {
            let threads = (1...target.vcpuCount).map { String($0, radix: 16) }
            reply("m" + threads.joined(separator: ","))
        } else if fields.skip("sThreadInfo") {
            reply("l")
        } else if fields.skip("ThreadExtraInfo,") {
            describeThread(&fields, target)
        } else if fields.skip("Attached") {
            // So that gdb leaves the machine running when it ends.
            reply("1")
        } else if fields.skip("qemu.PhyMemMode") {
            reply(isPhysical ? "1" : "0")
        } else if fields.skip("Rcmd,") {
            monitor(&fields, target)
        } else if fields.skip("C"), fields.isAtEnd {
            reply("QC\(String(selected + 1, radix: 16))")
        } else {
            reply("")
        }
    }

    mutating func set(_ fields: inout PacketFields) {
        if fields.skip("StartNoAckMode") {
            reply("OK")
            stopAcknowledging()
        } else if fields.skip("qemu.PhyMemMode:") {
            guard let mode = fields.number(), mode <= 1, fields.isAtEnd else { return refuse(.invalid) }
            isPhysical = mode == 1
            reply("OK")
        } else {
            reply("")
        }
    }

    private mutating func negotiate(_ theirs: ArraySlice<UInt8>) {
        let features = theirs.drop { $0 == UInt8(ascii: ":") }.split(separator: UInt8(ascii: ";"))
        knowsSoftwareBreakpoints = features.contains { $0.elementsEqual("swbreak+".utf8) }
        knowsHardwareBreakpoints = features.contains { $0.elementsEqual("hwbreak+".utf8) }
        reply(
            "PacketSize=\(String(PacketReader.longestPayload, radix: 16));QStartNoAckMode+;"
                + "qXfer:features:read+;vContSupported+;swbreak+;hwbreak+")
    }

    /// `m` and a part of the document, or `l` and its end.
    private mutating func sendDescription(_ fields: inout PacketFields) {
        guard let (offset, length) = fields.pair(), fields.isAtEnd else { return refuse(.invalid) }
        let document = TargetDescription.document
        let start = Int(min(offset, UInt64(document.count)))
        // Half of what fits: each byte may need an escape.
        let count = Int(min(length, UInt64(PacketReader.longestPayload / 2 - 8)))
        let part = document[start...].prefix(count)
        reply([UInt8(ascii: part.endIndex < document.count ? "m" : "l")] + part)
    }

    private mutating func describeThread(_ fields: inout PacketFields, _ target: some DebugTarget) {
        guard let number = fields.number(), number >= 1, number <= UInt64(target.vcpuCount) else {
            return refuse(.invalid)
        }
        let what =
            switch target.state(ofVCPU: Int(number) - 1).activity {
            case .running: "running"
            case .halted: "halted"
            case .waitingForStartup: "waits to be started"
            }
        reply(Hex.text("vCPU \(number - 1): \(what)".utf8))
    }

    // MARK: monitor

    private static let help = """
        physical on|off  addresses are physical, or linear (PhyMemMode of QEMU)
        translate ADDR   the physical address of a linear one, in hexadecimal

        """

    private mutating func monitor(_ fields: inout PacketFields, _ target: some DebugTarget) {
        guard let bytes = Hex.bytes(fields.takeAll()) else { return refuse(.invalid) }
        let words = String(decoding: bytes, as: UTF8.self).split(separator: " ")
        switch (words.first, words.dropFirst().first) {
        case ("physical", "on"):
            isPhysical = true
            reply("OK")
        case ("physical", "off"):
            isPhysical = false
            reply("OK")
        case ("translate", let text?): translate(text, target)
        default: reply(Hex.text(Self.help.utf8))
        }
    }

    private mutating func translate(_ text: Substring, _ target: some DebugTarget) {
        let digits = text.hasPrefix("0x") ? text.dropFirst(2) : text
        guard let address = UInt64(digits, radix: 16) else { return reply(Hex.text(Self.help.utf8)) }
        let physical = target.physicalAddress(of: address, vcpu: selected)
        let answer = physical.map { "0x" + String($0, radix: 16) } ?? "no page is present"
        reply(Hex.text((answer + "\n").utf8))
    }
}

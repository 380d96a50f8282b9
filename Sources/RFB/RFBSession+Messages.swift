internal import ByteLayout
internal import ScreenSurface

/// Messages of the viewer (RFC 6143 §7.5, and extensions).
extension RFBSession {
    /// More encodings than there are.
    private static let mostEncodings = 1024
    /// Nobody pastes more; it is not looked at anyway.
    private static let longestText = 16 << 20
    /// Keys and movement that nobody has taken yet.
    private static let mostEvents = 4096

    /// Whether the message is complete.
    func takeMessage(_ reader: inout ClientReader) -> Bool {
        guard let kind = reader.byte() else { return false }
        // Nothing comes between the rectangles of an update, and all of them are in one format.
        if !view.queue.isEmpty, RFBNumber.FromClient.betweenUpdates.contains(kind) { return false }
        switch kind {
        case RFBNumber.FromClient.setPixelFormat: return takePixelFormat(&reader)
        case RFBNumber.FromClient.setEncodings: return takeEncodings(&reader)
        case RFBNumber.FromClient.updateRequest: return takeUpdateRequest(&reader)
        case RFBNumber.FromClient.key:
            guard let isDown = reader.byte(), reader.skip(2), let symbol = reader.long() else { return false }
            append(keys.key(symbol, isDown: isDown != 0))
        case RFBNumber.FromClient.pointer:
            guard let mask = reader.byte(), let x = reader.word(), let y = reader.word() else { return false }
            append(
                pointer.move(mask, x, y, on: view.bounds, isRelative: view.usesRelativePointer))
        case RFBNumber.FromClient.cutText:
            guard reader.skip(3), let length = reader.long() else { return false }
            // A negative length is the extended clipboard's, which nobody was offered.
            skip(Int(Int32(bitPattern: length).magnitude))
        case RFBNumber.FromClient.continuousUpdates: return takeContinuousUpdates(&reader)
        case RFBNumber.FromClient.fence: return takeFence(&reader)
        case RFBNumber.FromClient.setDesktopSize: return takeDesktopSize(&reader)
        case RFBNumber.FromClient.qemu: return takeExtension(&reader)
        default: close("it sent a message that does not exist: \(kind)")
        }
        return true
    }

    private func append(_ new: [KeyTranslator.Event]) {
        for event in new where events.count < Self.mostEvents {
            events.append(.key(event.code, isDown: event.isDown))
        }
    }

    private func append(_ event: RFBEvent) { if events.count < Self.mostEvents { events.append(event) } }

    private func skip(_ count: Int) {
        guard count <= Self.longestText else { return close("its text is too long") }
        bytesToSkip = count
    }

    private func takePixelFormat(_ reader: inout ClientReader) -> Bool {
        guard reader.skip(3), reader.bytes.endIndex - reader.place >= 16 else { return false }
        let isMapped = reader.bytes[reader.place + 3] == 0
        guard let format = PixelFormat(&reader) else {
            close("its pixel format cannot be")
            return true
        }
        view.translator = PixelTranslator(format)
        if isMapped { appendColorMap() }
        return true
    }

    /// §7.6.2: the colours that `PixelFormat.mapped` numbers.
    private func appendColorMap() {
        output += [RFBNumber.FromServer.colorMap, 0, 0, 0, 1, 0]
        for index in 0..<256 as Range<UInt32> {
            let parts = [(index >> 5 & 7, 7), (index >> 2 & 7, 7), (index & 3, 3)] as [(UInt32, UInt32)]
            for (value, maximum) in parts { output.append(bigEndian: UInt16(value * 65_535 / maximum)) }
        }
    }

    private func takeEncodings(_ reader: inout ClientReader) -> Bool {
        guard reader.skip(1), let count = reader.word() else { return false }
        guard Int(count) <= Self.mostEncodings else {
            close("it knows too many encodings")
            return true
        }
        guard reader.bytes.endIndex - reader.place >= 4 * Int(count) else { return false }
        let encodings = (0..<count).map { _ in Int32(bitPattern: reader.long() ?? 0) }
        let (hadFence, hadContinuous) = (view.hasFence, view.hasContinuousUpdates)
        keepingCursor { $0.setEncodings(encodings) }
        // Both are offered by using them.
        if view.hasFence, !hadFence { appendFence(RFBNumber.Fence.request | RFBNumber.Fence.syncNext, []) }
        if view.hasContinuousUpdates, !hadContinuous {
            output.append(RFBNumber.FromServer.endOfContinuousUpdates)
        }
        return true
    }

    /// A wish for another size (rfbproto, "SetDesktopSize"): padding, width, height, how many screens,
    /// padding; for each a number, its rectangle, flags. The guest gives the screen its size: it is told.
    private func takeDesktopSize(_ reader: inout ClientReader) -> Bool {
        guard reader.skip(1), let width = reader.word(), let height = reader.word(),
            let screens = reader.byte(), reader.skip(1),
            reader.bytes.endIndex - reader.place >= 16 * Int(screens)
        else { return false }
        var layout: [ScreenRectangle] = []
        for _ in 0..<screens {
            guard reader.skip(4), let part = takeRectangle(&reader), reader.skip(4) else { return false }
            layout.append(part)
        }
        let whole = ScreenRectangle(x: 0, y: 0, width: Int(width), height: Int(height))
        view.sizeAnswer =
            if !framebuffer.abilities.contains(.takesSizes) {
                RFBNumber.SizeStatus.prohibited
            } else if layout != [whole] || !SurfaceMemory.fits(width: whole.width, height: whole.height) {
                RFBNumber.SizeStatus.invalidLayout
            } else if whole == framebuffer.bounds {
                RFBNumber.SizeStatus.done
            } else {
                RFBNumber.SizeStatus.forwarded
            }
        if view.sizeAnswer == RFBNumber.SizeStatus.forwarded {
            view.wish = ViewerView.Wish(width: whole.width, height: whole.height, isOwn: true)
        }
        // Also what the screen has already: an earlier wish may be on its way.
        let isFine =
            view.sizeAnswer == RFBNumber.SizeStatus.forwarded
            || view.sizeAnswer == RFBNumber.SizeStatus.done
        if isFine { append(.resize(width: width, height: height)) }
        return true
    }

    private func takeRectangle(_ reader: inout ClientReader) -> ScreenRectangle? {
        guard let x = reader.word(), let y = reader.word(), let width = reader.word(),
            let height = reader.word()
        else { return nil }
        return ScreenRectangle(x: Int(x), y: Int(y), width: Int(width), height: Int(height))
    }

    private func takeUpdateRequest(_ reader: inout ClientReader) -> Bool {
        guard let isIncremental = reader.byte(), let part = takeRectangle(&reader) else { return false }
        view.request(part.intersection(framebuffer.bounds), isIncremental: isIncremental != 0)
        return true
    }

    private func takeContinuousUpdates(_ reader: inout ClientReader) -> Bool {
        guard let isOn = reader.byte(), let part = takeRectangle(&reader) else { return false }
        if isOn != 0 {
            view.continuous = part
        } else if view.continuous != nil {
            view.continuous = nil
            output.append(RFBNumber.FromServer.endOfContinuousUpdates)
        }
        return true
    }

    private func takeFence(_ reader: inout ClientReader) -> Bool {
        guard reader.skip(3), let flags = reader.long(), let length = reader.byte() else { return false }
        guard Int(length) <= RFBNumber.Fence.longestPayload else {
            close("its fence is too long")
            return true
        }
        guard let payload = reader.take(Int(length)) else { return false }
        // Messages are handled in their order anyway, so that every flag we know holds.
        let known = RFBNumber.Fence.blockBefore | RFBNumber.Fence.blockAfter | RFBNumber.Fence.syncNext
        if flags & RFBNumber.Fence.request != 0 { appendFence(flags & known, Array(payload)) }
        return true
    }

    private func appendFence(_ flags: UInt32, _ payload: [UInt8]) {
        output += [RFBNumber.FromServer.fence, 0, 0, 0]
        output.append(bigEndian: flags)
        output.append(UInt8(payload.count))
        output += payload
    }

    private func takeExtension(_ reader: inout ClientReader) -> Bool {
        guard let kind = reader.byte() else { return false }
        switch kind {
        case RFBNumber.QEMU.key:
            guard let isDown = reader.word(), let symbol = reader.long(), let number = reader.long() else {
                return false
            }
            let byNumber = keys.key(extended: number, isDown: isDown != 0)
            // A viewer that knows no number for a key sends zero.
            append(number == 0 ? keys.key(symbol, isDown: isDown != 0) : byNumber)
        case RFBNumber.QEMU.audio:
            guard let operation = reader.word() else { return false }
            // Two: a sample format. There is no sound.
            return operation != 2 || reader.skip(6)
        default: close("it sent an extended message that does not exist: \(kind)")
        }
        return true
    }
}

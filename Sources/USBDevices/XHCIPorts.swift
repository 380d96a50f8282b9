/// The root hub's ports, xHCI 1.1 §4.15 and §4.19.
extension XHCILogic {
    /// USB 3 ports come first.
    static func isSuper(_ port: Int) -> Bool { port < XHCICapability.sockets }

    /// As devices are found when the power comes.
    mutating func powerPorts() {
        for index in registers.ports.indices {
            var port = Port()
            if registers.devices[index] != nil {
                port.status = XHCIPortStatus.connected | XHCIPortStatus.connectChange
                // The links of SuperSpeed train by themselves.
                if Self.isSuper(index) { port.status |= XHCIPortStatus.enabled }
                port.link = Self.isSuper(index) ? XHCILink.active : XHCILink.polling
            }
            registers.ports[index] = port
        }
    }

    /// What is in a port that works.
    func isReachable(_ port: Int) -> Bool {
        registers.ports[port].status & XHCIPortStatus.enabled != 0
            && registers.ports[port].link == XHCILink.active && registers.devices[port] != nil
    }

    func readPort(_ index: Int, _ register: UInt64) -> UInt32 {
        let port = registers.ports[index]
        switch register {
        case 0:
            let speed = registers.devices[index]?.function.identity.speed.rawValue ?? 0
            return port.status | port.link << XHCIPortStatus.linkShift | XHCIPortStatus.power
                | speed << XHCIPortStatus.speedShift
        case 4: return port.power
        case 12: return port.extra
        default: return 0
        }
    }

    mutating func writePort(_ index: Int, _ register: UInt64, _ value: UInt32) {
        switch register {
        case 0: writePortStatus(index, value)
        case 4: registers.ports[index].power = value & 0x1_FFFF
        case 12: registers.ports[index].extra = value & 0x3FFF
        default: break
        }
    }

    private mutating func writePortStatus(_ index: Int, _ value: UInt32) {
        var port = registers.ports[index]
        port.status &= ~(value & XHCIPortStatus.changes)
        port.status = port.status & ~XHCIPortStatus.kept | value & XHCIPortStatus.kept
        let isWarm = value & XHCIPortStatus.warmReset != 0 && Self.isSuper(index)
        guard value & XHCIPortStatus.reset == 0, !isWarm else {
            registers.ports[index] = port
            return resetPort(index, isWarm: isWarm)
        }
        if value & XHCIPortStatus.enabled != 0, !Self.isSuper(index),
            port.status & XHCIPortStatus.enabled != 0
        {
            port.status &= ~XHCIPortStatus.enabled
            port.link = XHCILink.polling
        }
        let link = value >> XHCIPortStatus.linkShift & 0xF
        var hasResumed = false
        if value & XHCIPortStatus.linkWrite != 0, port.status & XHCIPortStatus.enabled != 0 {
            switch link {
            case XHCILink.active:
                hasResumed = port.link != XHCILink.active
                port.link = link
            case XHCILink.suspended where port.link == XHCILink.active: port.link = link
            case XHCILink.resume where port.link == XHCILink.suspended && !Self.isSuper(index):
                port.link = link
            default: break
            }
        }
        registers.ports[index] = port
        guard hasResumed else { return }
        note(XHCIPortStatus.linkChange, at: index)
        runPort(index)
    }

    private mutating func resetPort(_ index: Int, isWarm: Bool) {
        guard registers.devices[index] != nil else { return }
        registers.devices[index]?.reset()
        registers.ports[index].status |= XHCIPortStatus.enabled
        registers.ports[index].link = XHCILink.active
        forgetUse(ofPort: index)
        note(XHCIPortStatus.resetChange | (isWarm ? XHCIPortStatus.warmResetChange : 0), at: index)
    }

    /// Sets change bits, and says so if they are new.
    mutating func note(_ changes: UInt32, at index: Int) {
        guard registers.ports[index].status & changes != changes else { return }
        registers.ports[index].status |= changes
        registers.status |= XHCIStatus.portChange
        guard registers.isRunning else { return }
        post(
            TRB(
                parameter: UInt64(index + 1) << 24, status: TRBCompletion.success << 24,
                control: TRBType.portStatusChange << 10))
    }

    /// The slot that has the device of a port.
    func slot(ofPort index: Int) -> Int? {
        registers.slots.firstIndex { $0.map { $0.port == index && $0.state != .enabled } ?? false }
    }

    /// A device has news: wakes the host if it sleeps and wants that, else goes on with its transfers.
    mutating func deviceHasNews(at index: Int) {
        if registers.ports[index].link == XHCILink.suspended {
            guard registers.devices[index]?.function.standing.mayWake == true else { return }
            registers.ports[index].link = XHCILink.resume
            note(XHCIPortStatus.linkChange, at: index)
        } else {
            runPort(index)
        }
    }

    private mutating func forgetUse(ofPort index: Int) {
        guard let slot = slot(ofPort: index) else { return }
        for number in 0..<31 { registers.slots[slot]?.endpoints[number]?.isInUse = false }
    }

    /// Whether what a person does reaches a guest: somebody listens, or sleeps until the device wakes it.
    func hears(fromPort index: Int) -> Bool {
        guard registers.ports[index].link == XHCILink.suspended else { return isListening(toPort: index) }
        return registers.devices[index]?.function.standing.mayWake == true
    }

    /// Whether a guest waits for reports of the device in a port.
    func isListening(toPort index: Int) -> Bool {
        guard registers.isRunning, isReachable(index), let slot = slot(ofPort: index),
            registers.slots[slot]?.state == .configured
        else { return false }
        // Endpoint 1, IN.
        guard let endpoint = endpoint(slot, 3) else { return false }
        return endpoint.isInUse && endpoint.state == .running
            && registers.devices[index]?.function.standing.configuration == 1
    }
}

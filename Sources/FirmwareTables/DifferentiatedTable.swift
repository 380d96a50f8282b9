/// The DSDT: what cannot be enumerated, in AML (ACPI 6.5 §5.2.11.1).
struct DifferentiatedTable {
    let platform: PlatformDescription

    /// The body after the table header.
    var aml: [UInt8] {
        let terms =
            [
                .name("PICM", .integer(UInt8(0))),
                // The system says here which interrupt controller it uses (§5.8.1).
                .method("_PIC", arguments: 1, [.store(.argument(0), .path("PICM"))]),
                .scope("_SB", processors + [motherboard] + timer + devices),
            ] as [AML] + sleepStates
        return terms.flatMap(\.bytes)
    }

    /// SLP_TYP by state (§7.4.2).
    private var sleepStates: [AML] {
        let power = platform.powerManagement
        func state(_ name: String, _ type: UInt8) -> AML {
            .name(name, .package([.integer(type), .integer(type), .integer(UInt8(0)), .integer(UInt8(0))]))
        }
        return (power.suspendType.map { [state("_S3", $0)] } ?? []) + [state("_S5", power.softOffType)]
    }

    /// §8.4: one device per processor; _UID is the MADT's processor UID.
    private var processors: [AML] {
        platform.apicIDs.indices.map { index in
            let digits = String(index, radix: 16, uppercase: true)
            let name = "C" + String(repeating: "0", count: 3 - digits.count) + digits
            return .device(
                name, [.name("_HID", .string("ACPI0007")), .name("_UID", .integer(UInt32(index)))])
        }
    }

    /// Memory that no driver may take: ECAM (PCI Firmware 3.3 §4.1.2 wants it here), IOAPIC and local APIC.
    private var motherboard: AML {
        .device(
            "MEMR",
            identified("PNP0C02", unique: 0) { resources in
                if platform.hasPCI {
                    resources.fixedMemory(
                        UInt32(truncatingIfNeeded: platform.ecam.start),
                        size: UInt32(truncatingIfNeeded: platform.ecam.size))
                }
                resources.fixedMemory(platform.ioapicAddress, size: 0x1000)
                resources.fixedMemory(platform.localAPICAddress, size: 0x10_0000)
            })
    }

    private var timer: [AML] {
        guard let address = platform.hpetAddress else { return [] }
        return [.device("HPET", identified("PNP0103", unique: 0) { $0.fixedMemory(address, size: 0x400) })]
    }

    /// `_HID`, `_UID` and `_CRS`.
    private func identified(
        _ id: String, unique: Int, _ describe: (inout ResourceTemplate) -> Void
    ) -> [AML] {
        var resources = ResourceTemplate()
        describe(&resources)
        return [
            .name("_HID", id.hasPrefix("PNP") ? .eisaID(id) : .string(id)),
            .name("_UID", .integer(UInt32(unique))), .name("_CRS", resources.aml),
        ]
    }

    /// Without a bridge everything hangs on the processor's own bus.
    private var devices: [AML] { platform.hasPCI ? [hostBridge] : legacyDevices + virtioDevices }

    /// The identifier under which Linux knows virtio devices in memory.
    private var virtioDevices: [AML] {
        platform.virtio.enumerated().map { index, place in
            let digits = String(index, radix: 16, uppercase: true)
            return .device(
                "VI" + String(repeating: "0", count: 2 - digits.count) + digits,
                identified("LNRO0005", unique: index) { resources in
                    resources.fixedMemory(
                        UInt32(truncatingIfNeeded: place.window.start),
                        size: UInt32(truncatingIfNeeded: place.window.size))
                    resources.levelInterrupt(place.interrupt)
                })
        }
    }

    // MARK: The PCI host bridge

    private var hostBridge: AML {
        let zero = AML.integer(UInt8(0))
        return .device(
            "PCI0",
            [
                .name("_HID", .eisaID("PNP0A08")), .name("_CID", .eisaID("PNP0A03")), .name("_UID", zero),
                .name("_SEG", zero), .name("_BBN", zero), .name("_CRS", hostBridgeResources),
                .name("PRTA", routing(platform.pciInterrupts)),
                .name("PRTP", routing(platform.pciLegacyInterrupts)),
                .method(
                    "_PRT", arguments: 0,
                    [
                        .if(.path("PICM"), [.return(.path("PRTA"))]),
                        .return(.path("PRTP")),
                    ]),
                operatingSystemCapabilities,
            ] + legacyDevices)
    }

    private var hostBridgeResources: AML {
        var resources = ResourceTemplate()
        resources.producedBuses(0, UInt16(min(platform.ecam.size >> 20, 256)) &- 1)
        resources.ports(0xCF8, count: 8)
        for window in platform.pciPortWindows { resources.producedPorts(window.first, window.last) }
        if platform.hasVGA { resources.producedMemory(0xA_0000, 0xB_FFFF, cacheable: true) }
        for window in [platform.pciWindow32] + platform.morePCIWindows32 {
            resources.producedMemory(
                UInt32(truncatingIfNeeded: window.start), UInt32(truncatingIfNeeded: window.last))
        }
        if let window = platform.pciWindow64 { resources.producedMemory64(window.start, window.last) }
        return resources.aml
    }

    /// §6.2.13: one entry per slot and pin; source 0 means that the last element is the interrupt itself.
    private func routing(_ interrupts: [UInt32]) -> AML {
        var entries: [AML] = []
        // 128 entries: a package could hold 255.
        for slot in 0..<UInt32(32) {
            for pin in 0..<UInt32(4) {
                entries.append(
                    .package([
                        .integer(slot << 16 | 0xFFFF), .integer(pin), .integer(UInt8(0)),
                        .integer(interrupts[Int((slot + pin) & 3)]),
                    ]))
            }
        }
        return .package(entries)
    }

    /// _OSC of a PCI Express host bridge (PCI Firmware 3.3 §4.5): native hot plug, PME, AER and capability
    /// structure are the system's; SHPC and LTR stay ours because we have neither.
    private var operatingSystemCapabilities: AML {
        let granted: UInt32 = 0x1D
        let badRevision = AML.integer(UInt8(0x08)), masked = AML.integer(UInt8(0x10))
        let badUUID = AML.integer(UInt8(0x04))
        let buffer = AML.argument(3), status = AML.path("CDW1"), control = AML.path("CDW3")
        let hostBridge: [UInt8] = [
            0x33, 0xDB, 0x4D, 0x5B, 0x1F, 0xF7, 0x40, 0x1C, 0x96, 0x57, 0x74, 0x41, 0xC0, 0x3D, 0xD7, 0x66,
        ]
        return .method(
            "_OSC", arguments: 4, serialized: true,
            [
                .createDWordField(buffer, offset: 0, "CDW1"),
                .if(
                    .equal(.argument(0), .uuid(hostBridge)),
                    [
                        .createDWordField(buffer, offset: 8, "CDW3"),
                        .and(control, .integer(granted), .local(0)),
                        .if(
                            .not(.equal(.argument(1), .integer(UInt8(1)))), [.or(status, badRevision, status)]
                        ),
                        .if(.not(.equal(control, .local(0))), [.or(status, masked, status)]),
                        .store(.local(0), control),
                    ]),
                .else([.or(status, badUUID, status)]),
                .return(buffer),
            ])
    }

    // MARK: Legacy devices, behind the bridge whose port windows hold them

    private var legacyDevices: [AML] {
        let power = platform.powerManagement
        var devices = platform.hasLegacyController ? legacyController : []
        devices += [
            .device(
                "PORT",
                identified("PNP0C02", unique: 1) { resources in
                    resources.ports(0x80, count: 1)
                    resources.ports(0x92, count: 1)
                    resources.ports(power.commandPort, count: 2)
                    resources.ports(power.eventPort, count: 4)
                    resources.ports(power.controlPort, count: 2)
                    resources.ports(power.timerPort, count: 4)
                    resources.ports(power.generalEventPort, count: power.generalEventLength)
                })
        ]
        if platform.hasRealTimeClock {
            devices.append(
                .device(
                    "RTC",
                    identified("PNP0B00", unique: 0) { resources in
                        resources.ports(0x70, count: 2)
                        resources.interrupt(8)
                    }))
        }
        if platform.hasKeyboardController { devices += keyboardController }
        for (index, serial) in platform.serialPorts.enumerated() {
            devices.append(
                .device(
                    "COM\(index + 1)",
                    identified("PNP0501", unique: index + 1) { resources in
                        resources.ports(serial.port, count: 8)
                        resources.interrupt(serial.interrupt)
                    }))
        }
        if let port = platform.panicPort { devices.append(panicNotifier(port)) }
        return devices
    }

    private var legacyController: [AML] {
        [
            .device(
                "PIC",
                identified("PNP0000", unique: 0) { resources in
                    resources.ports(0x20, count: 2)
                    resources.ports(0xA0, count: 2)
                    resources.ports(0x4D0, count: 2)
                    resources.interrupt(2)
                }),
            .device(
                "PIT",
                identified("PNP0100", unique: 0) { resources in
                    resources.ports(0x40, count: 4)
                    resources.interrupt(0)
                }),
            .device("SPKR", identified("PNP0800", unique: 0) { $0.ports(0x61, count: 1) }),
        ]
    }

    private var keyboardController: [AML] {
        [
            .device(
                "KBD",
                identified("PNP0303", unique: 0) { resources in
                    resources.ports(0x60, count: 1)
                    resources.ports(0x64, count: 1)
                    resources.interrupt(1)
                }),
            .device("MOU", identified("PNP0F13", unique: 0) { $0.interrupt(12) }),
        ]
    }

    /// QEMU docs/specs/pvpanic: present, enabled and working, with methods for drivers that do no port I/O.
    private func panicNotifier(_ port: UInt16) -> AML {
        .device(
            "PEVT",
            identified("QEMU0001", unique: 0) { $0.ports(port, count: 1) } + [
                .name("_STA", .integer(UInt8(0x0F))), .portRegion("PEOR", port: port, length: 1),
                .byteField(region: "PEOR", name: "PEPT", bits: 8),
                .method("RDPT", arguments: 0, [.return(.path("PEPT"))]),
                .method("WRPT", arguments: 1, [.store(.argument(0), .path("PEPT"))]),
            ])
    }
}

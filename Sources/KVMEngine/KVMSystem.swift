internal import CKVM
internal import Glibc
public import LinuxHost

/// An open /dev/kvm with the interface and the extensions that the engine needs. Any thread.
public final class KVMSystem: Sendable {
    /// The version of the interface; the kernel promises that it stays 12.
    public static let apiVersion: Int32 = 12

    let descriptor: Descriptor
    /// Bytes of a vCPU's area shared with the kernel.
    let runSize: Int
    /// MSRs that the kernel can save and restore.
    let msrNumbers: [UInt32]

    /// Checks an open /dev/kvm.
    /// - Throws: with the reason when it is no KVM or lacks what we need.
    public init(_ descriptor: Descriptor) throws(HostError) {
        let version = ospite_kvm_api_version(descriptor.number)
        guard version == Self.apiVersion else {
            throw version < 0
                ? .last("this is not a KVM device")
                : HostError("KVM has interface version \(version), not \(Self.apiVersion)", code: 0)
        }
        for (capability, name) in Self.needed where ospite_kvm_check(descriptor.number, capability) <= 0 {
            throw HostError("KVM lacks the extension \(name)", code: 0)
        }
        let size = ospite_kvm_run_size(descriptor.number)
        guard size >= 4096 else { throw .last("asking KVM for the size of a vCPU") }
        self.descriptor = descriptor
        runSize = Int(size)
        var numbers = [UInt32](repeating: 0, count: 1024)
        // SAFETY: room for the count given.
        let count = unsafe ospite_kvm_msr_list(descriptor.number, &numbers, Int32(numbers.count))
        guard count >= 0 else { throw .last("asking KVM for its MSRs") }
        msrNumbers = Array(numbers.prefix(Int(count)))
    }

    private static let needed: [(OspiteKVMCapability, String)] = [
        (.userMemory, "USER_MEMORY"), (.extendedCPUID, "EXT_CPUID"), (.immediateExit, "IMMEDIATE_EXIT"),
        (.readOnlyMemory, "READONLY_MEM"), (.xSave, "XSAVE"), (.extendedControl, "XCRS"),
    ]

    /// Opens the host's KVM.
    public static func open(path: String = "/dev/kvm") throws(HostError) -> KVMSystem {
        try KVMSystem(Descriptor.open(path, flags: O_RDWR))
    }

    /// What the host lets a guest's CPUID say.
    public func supportedCPUID() throws(HostError) -> [CPUIDRow] {
        var rows = [ospite_kvm_cpuid](repeating: ospite_kvm_cpuid(), count: 256)
        // SAFETY: room for the count given.
        let count = unsafe ospite_kvm_supported_cpuid(descriptor.number, &rows, Int32(rows.count))
        guard count >= 0 else { throw .last("asking KVM for CPUID") }
        return rows.prefix(Int(count)).map {
            CPUIDRow(
                leaf: $0.leaf, subleaf: $0.subleaf, hasSubleaf: $0.has_subleaf != 0, eax: $0.eax, ebx: $0.ebx,
                ecx: $0.ecx, edx: $0.edx)
        }
    }

    func has(_ capability: OspiteKVMCapability) -> Bool {
        ospite_kvm_check(descriptor.number, capability) > 0
    }
}

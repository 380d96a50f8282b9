import X86Architecture

/// The XSAVE image as bytes, in and out of the engine's memory.
extension CPU {
    func extendedStateBytes() -> [UInt8] {
        // SAFETY: `xsave` is the address of `ExtendedState.size` bytes of the vCPU's own memory.
        unsafe [UInt8](
            UnsafeRawBufferPointer(
                start: UnsafeRawPointer(bitPattern: s.xsave).unsafelyUnwrapped, count: ExtendedState.size))
    }

    /// Loads an image from anywhere, so that XRSTOR and LDMXCSR accept it: MXCSR and the header get no
    /// reserved bits (SDM vol. 1 §13.4, §10.5.1.2).
    func loadExtendedState(bytes: [UInt8]) {
        var image = [UInt8](repeating: 0, count: ExtendedState.size)
        for index in 0..<min(bytes.count, image.count) { image[index] = bytes[index] }
        // MXCSR: bits 0..15 exist. MXCSR_MASK says so to the guest's FXSAVE.
        (image[26], image[27]) = (0, 0)
        (image[28], image[29], image[30], image[31]) = (0xFF, 0xFF, 0, 0)
        // XSTATE_BV holds x87, SSE and AVX; the rest of the header is zero.
        image[512] &= 7
        for index in 513..<576 { image[index] = 0 }
        // All of the image counts: a component that its header calls initial would lose what is in it.
        image[512] |= 3
        // SAFETY: as above.
        unsafe UnsafeMutableRawBufferPointer(
            start: UnsafeMutableRawPointer(bitPattern: s.xsave).unsafelyUnwrapped, count: ExtendedState.size
        ).copyBytes(from: image)
        // FCW, FSW and the rest: emitted code relies on them.
        extended.normalise()
    }
}

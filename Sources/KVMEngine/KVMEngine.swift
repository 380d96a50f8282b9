// KVMEngine: see ARCHITECTURE.md.

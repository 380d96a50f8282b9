// SoftCPU: see ARCHITECTURE.md.

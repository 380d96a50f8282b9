// MachineSpec: see ARCHITECTURE.md.

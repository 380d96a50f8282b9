// MachineControl: see ARCHITECTURE.md.

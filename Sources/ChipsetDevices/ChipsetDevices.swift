// ChipsetDevices: see ARCHITECTURE.md.

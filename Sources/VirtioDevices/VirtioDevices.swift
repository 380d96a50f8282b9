// VirtioDevices: see ARCHITECTURE.md.

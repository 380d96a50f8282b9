// PCIBus: see ARCHITECTURE.md.

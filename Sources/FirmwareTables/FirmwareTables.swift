// FirmwareTables: see ARCHITECTURE.md.

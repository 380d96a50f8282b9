// DiskImages: see ARCHITECTURE.md.

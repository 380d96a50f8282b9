// BootLoaders: see ARCHITECTURE.md.

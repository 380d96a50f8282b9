// StateCodec: see ARCHITECTURE.md.

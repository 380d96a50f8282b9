// Virtio: see ARCHITECTURE.md.

// CharacterBackends: see ARCHITECTURE.md.

"""What the mesh knows: model, rules, store, certificate authority, API and CLI."""

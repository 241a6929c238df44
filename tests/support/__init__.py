"""What tests and the demo share: real processes, hosts as namespaces, a whole mesh, the wire."""

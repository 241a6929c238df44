"""Where the mesh keeps its state: etcd, and a twin in memory for tests."""

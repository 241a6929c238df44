"""The workers: accept, decide, tunnel, relay. Everything fast; nothing that talks to etcd."""

"""The agent: everything slow or privileged, one process per host."""

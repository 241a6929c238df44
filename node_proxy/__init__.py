"""What moves the bytes: tunnels, the data plane's workers, and the agent that feeds them."""

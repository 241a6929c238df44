"""meshctl, the operators' command."""

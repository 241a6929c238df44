"""Tunnels: one mutual TLS HTTP/2 connection between two proxies, and the streams in it."""

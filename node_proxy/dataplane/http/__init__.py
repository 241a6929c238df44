"""HTTP in the proxies: messages, connections, and what is done with each request."""

"""How much is let through: token buckets, shares of a limit, pace. Pure."""

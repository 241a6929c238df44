"""`make demo`: a mesh of three hosts on this machine, and a live report of what it does."""

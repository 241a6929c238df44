"""Which endpoint takes a request, and whether it is asked at all: balance, break, eject, retry. Pure."""

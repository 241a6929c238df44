"""`make bench`: a pair of proxies beside real peers that do the same, in one run. It never asserts."""

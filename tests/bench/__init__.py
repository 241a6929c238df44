"""`make bench`: what a pair of proxies costs, as ratios to a direct connection measured in turn."""

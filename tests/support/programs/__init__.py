"""Small real programs that tests and the demo run on hosts, each by ``python -m``."""

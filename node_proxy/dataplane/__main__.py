"""Starts a worker: ``python -m node_proxy.dataplane --control-fd N``."""

import sys

# structlog draws tracebacks with rich where it finds it: 4 MB in each worker, for a terminal it never has.
sys.modules["rich"] = None  # type: ignore[assignment]

from node_proxy.dataplane.worker import main  # noqa: E402 - only now

main()

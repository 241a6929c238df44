"""Who may make namespaces, and what a test says when it may not."""

import os

import pytest

from tests.support.hosts import find_tool


def require_root() -> None:
    """Skip a test off root; as root a missing tool is a failure, not a reason to skip."""
    if os.geteuid() != 0:
        pytest.skip("needs root for namespaces and nftables")
    for tool in ("ip", "nft", "curl"):
        find_tool(tool)

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import settings

from tests.integration.certificates import Authority
from tests.node_proxy.tunnel.handshakes import Sockets

# Examples run on shared machines: how long one takes says nothing.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Give the root that both ends trust."""
    return Authority("nodemesh test root")


@pytest.fixture(scope="session")
def stranger() -> Authority:
    """Give a root that nobody trusts."""
    return Authority("another root")


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """Give a maker of sockets that are closed with the test."""
    with ExitStack() as stack:
        yield Sockets(stack)

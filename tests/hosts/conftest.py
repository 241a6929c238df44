from collections.abc import Iterator

import pytest

from tests.hosts.machine import require_tools
from tests.hosts.site import Site, open_site
from tests.support.privilege import require_root


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A mesh on two booted machines, shared by the tests of a module, which need their order."""
    require_root()
    require_tools()
    with open_site() as opened:
        yield opened

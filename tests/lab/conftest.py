from collections.abc import Iterator

import pytest

from tests.lab.topology import Lab, open_lab
from tests.support.privilege import require_root


@pytest.fixture(scope="module", autouse=True)
def as_root() -> None:
    """Everything in the lab needs root."""
    require_root()


@pytest.fixture(scope="module")
def lab(as_root: None) -> Iterator[Lab]:
    """A mesh of three hosts, shared by the tests of a module, each of which leaves it as it was."""
    with open_lab() as opened:
        yield opened

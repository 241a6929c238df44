import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.certificates import Authority
from tests.integration.pair import run_pair

# What most shells and service managers give to start with; less than a busy host's connections.
SOFT_LIMIT = 1024


@pytest.fixture
def soft_limit() -> Iterator[int]:
    """Lower the soft limit for what is started meanwhile; give the hard one."""
    former, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(SOFT_LIMIT, most), most))
    yield most
    resource.setrlimit(resource.RLIMIT_NOFILE, (former, most))


def descriptor_limits(pid: int) -> tuple[str, str]:
    """Give a process's limits, soft and hard, as /proc tells them."""
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max open files"):
            soft, hard = line.split()[3:5]
            return soft, hard
    raise AssertionError("no limit of open files")


def test_a_worker_takes_all_descriptors_it_may(authority: Authority, soft_limit: int) -> None:
    """A worker that is started with a low soft limit raises it to the hard one."""
    with run_pair(authority, {}) as pair:
        assert descriptor_limits(pair.near.process.pid) == (str(soft_limit), str(soft_limit))

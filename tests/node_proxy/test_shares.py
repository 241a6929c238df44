from collections.abc import Iterator

import pytest

from node_proxy.shares import SLACK, Kind, Share, Shares


@pytest.fixture
def shares() -> Iterator[Shares]:
    """Give the counts of three workers."""
    made = Shares.make(3)
    yield made
    made.close()


def test_alone_nobody_is_ahead(shares: Shares) -> None:
    """Workers that are not there have no share."""
    assert not shares.ahead(0, Kind.CALLERS, 1000)


def test_ahead_of_the_least(shares: Shares) -> None:
    """Who has clearly more than the one that has least is ahead."""
    shares.say(1, Kind.CALLERS, 100)
    shares.say(2, Kind.CALLERS, 16)
    assert shares.ahead(0, Kind.CALLERS, 16 + 2 + SLACK + 1)
    assert not shares.ahead(0, Kind.CALLERS, 16 + 2 + SLACK)


def test_kinds_are_apart(shares: Shares) -> None:
    """Many callers are no reason to take no tunnels."""
    for kind, count in ((Kind.CALLERS, 0), (Kind.TUNNELS, 50)):
        shares.say(1, kind, count)
    assert shares.ahead(0, Kind.CALLERS, 40)
    assert not shares.ahead(0, Kind.TUNNELS, 40)


def test_who_has_left_does_not_count(shares: Shares) -> None:
    """A dead worker's empty place keeps nobody from accepting."""
    shares.say(1, Kind.TUNNELS, 0)
    shares.leave(1)
    assert not shares.ahead(0, Kind.TUNNELS, 100)


def test_another_process_sees_it(shares: Shares) -> None:
    """Whoever inherits the descriptor reads what others write."""
    inherited = Shares(shares.fd, 3)
    Share(inherited, 1, Kind.CALLERS, lambda: 3).publish()
    assert Share(shares, 0, Kind.CALLERS, lambda: 50).is_ahead()
    inherited._memory.close()

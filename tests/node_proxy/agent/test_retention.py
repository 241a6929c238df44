import pytest

from node_proxy.agent.retention import AT_ONCE, Retention

FOUR = {"a": 1, "b": 2, "c": 3, "d": 4}


class Watched:
    """One service as its endpoints come and go; keys are stored while they are live."""

    def __init__(self) -> None:
        self.retention: Retention[int] = Retention()
        self.now = 100.0

    def see(
        self, live: dict[str, int], *, after: float = 0, stored: frozenset[str] | None = None
    ) -> dict[str, int]:
        """Let `after` seconds pass and the live endpoints be these; gives those that are kept."""
        self.now += after
        kept = self.retention.keep("s", live, stored=live if stored is None else stored, now=self.now)
        return dict(kept)


@pytest.fixture
def service() -> Watched:
    watched = Watched()
    assert watched.see(FOUR) == {}
    return watched


def without(*keys: str) -> dict[str, int]:
    """Give all four but these."""
    return {key: value for key, value in FOUR.items() if key not in keys}


def test_one_alone_is_dropped(service: Watched) -> None:
    """An endpoint that vanishes alone is believed to be gone."""
    assert service.see(without("a")) == {}


def test_half_is_dropped(service: Watched) -> None:
    """Half of a service is not more than half."""
    assert service.see(without("a", "b")) == {}


def test_more_than_half_is_kept(service: Watched) -> None:
    """When most vanish at once, all of them are kept as last known."""
    assert service.see(without("a", "b", "c")) == {"a": 1, "b": 2, "c": 3}


def test_all_are_kept(service: Watched) -> None:
    """A service that vanishes as a whole is kept as a whole."""
    assert service.see({}) == FOUR


def test_single_endpoint_is_dropped() -> None:
    """The only endpoint of a service vanishes alone."""
    watched = Watched()
    watched.see({"a": 1})
    assert watched.see({}) == {}


def test_leases_that_end_within_the_window_are_one_event(service: Watched) -> None:
    """Endpoints that vanish one by one within a lease's time have vanished at once."""
    assert service.see(without("a")) == {}
    assert service.see(without("a", "b"), after=AT_ONCE / 2) == {}
    assert service.see(without("a", "b", "c"), after=AT_ONCE / 2) == {"a": 1, "b": 2, "c": 3}


def test_slow_departures_are_believed(service: Watched) -> None:
    """A service that is taken down one by one, slowly, ends empty."""
    live = dict(FOUR)
    for key in FOUR:
        del live[key]
        assert service.see(dict(live), after=AT_ONCE + 1) == {}


def test_kept_until_half_is_back(service: Watched) -> None:
    """What is kept is let go when as many are registered as are missing."""
    service.see({})
    assert service.see({"a": 9}, after=3600) == {"b": 2, "c": 3, "d": 4}
    assert service.see({"a": 9, "b": 9}, after=1) == {}
    assert service.see({"a": 9, "b": 9}, after=1) == {}


def test_moved_on_purpose_is_not_kept(service: Watched) -> None:
    """Endpoints that still exist but are not selected any more were taken out by an edit."""
    assert service.see({}, stored=frozenset(FOUR)) == {}


def test_forgotten_service() -> None:
    """A service that was deleted and made again starts afresh."""
    watched = Watched()
    watched.see(FOUR)
    watched.retention.forget_all_but(["other"])
    assert watched.see({}) == {}

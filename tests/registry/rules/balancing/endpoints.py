"""Endpoints and groups of them for tests of balancing, and a count of who is chosen."""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from registry.model.backend_policy import LoadBalancing, OutlierEjection
from registry.rules.balancing.candidate import Records
from registry.rules.balancing.group import Group
from registry.rules.balancing.keys import NO_KEYS, Keys
from registry.rules.balancing.settings import Home, compile_settings

DRAWS: Final = 6_000


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that is as a test wants it."""

    address: str
    port: int = 80
    healthy: bool = True
    weight: int = 100
    region: str = ""
    zone: str = ""


class Service:
    """A group of endpoints with all that it needs around it; `unreachable` until the times given."""

    def __init__(
        self,
        *endpoints: Endpoint,
        balancing: LoadBalancing = LoadBalancing(),  # noqa: B008 - immutable
        ejection: OutlierEjection = OutlierEjection(),  # noqa: B008 - immutable
        home: Home = Home(),  # noqa: B008 - immutable
    ) -> None:
        self.records = Records()
        self.rng = random.Random(11)  # noqa: S311 - repeatable on purpose
        self.unreachable: dict[Endpoint, float] = {}
        self.now = 0.0
        self._settings = compile_settings(balancing, ejection)
        self._home = home
        self.group: Group[Endpoint] = self._group(endpoints, None)

    def change(self, *endpoints: Endpoint) -> None:
        """Put other endpoints in the place of these."""
        self.group = self._group(endpoints, self.group)

    def choose(self, *tried: Endpoint, keys: Keys = NO_KEYS) -> Endpoint | None:
        """Choose one."""
        return self.group.choose(now=self.now, rng=self.rng, tried=tried, keys=keys)

    def begin(self, endpoint: Endpoint, count: int = 1) -> None:
        """Count requests as under way."""
        self.records.of((endpoint.address, endpoint.port)).in_flight += count

    def chosen(
        self, *tried: Endpoint, draws: int = DRAWS, key: Callable[[int], Keys] | None = None
    ) -> set[str]:
        """Give the addresses of all that are ever chosen."""
        return set(self.shares(*tried, draws=draws, key=key))

    def shares(
        self, *tried: Endpoint, draws: int = DRAWS, key: Callable[[int], Keys] | None = None
    ) -> Counter[str]:
        """Count who is chosen in so many draws, of which none is under way when the next is made."""
        picks = (self.choose(*tried, keys=key(number) if key else NO_KEYS) for number in range(draws))
        return Counter(endpoint.address for endpoint in picks if endpoint)

    def _group(self, endpoints: Sequence[Endpoint], former: Group[Endpoint] | None) -> Group[Endpoint]:
        return Group(
            endpoints,
            self.records,
            self._settings,
            home=self._home,
            unreachable_until=lambda endpoint: self.unreachable.get(endpoint, 0.0),
            former=former,
            now=self.now,
        )


def names(count: int, **what: object) -> tuple[Endpoint, ...]:
    """Give endpoints a, b, c and so on."""
    return tuple(Endpoint(chr(ord("a") + number), **what) for number in range(count))  # type: ignore[arg-type]


def assert_shares(counted: Counter[str], expected: dict[str, float]) -> None:
    """Check a distribution by chi-square: one draw in a million would miss it by chance."""
    draws = sum(counted.values())
    total = sum(expected.values())
    assert set(counted) <= set(expected)
    chi = sum(
        (counted[name] - draws * part / total) ** 2 / (draws * part / total)
        for name, part in expected.items()
    )
    freedom = len(expected) - 1
    # Wilson and Hilferty's approximation of the quantile, at 4.75 standard deviations.
    bound = freedom * (1 - 2 / (9 * freedom) + 4.75 * math.sqrt(2 / (9 * freedom))) ** 3
    assert chi < bound, f"{dict(counted)}: {chi:.1f}, at most {bound:.1f}"

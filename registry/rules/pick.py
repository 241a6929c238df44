"""Which endpoint takes the next connection: power of two choices, by load and weight.

Pure: randomness comes in as an argument. Source: Mitzenmacher, "The Power of Two Choices in Randomized Load
Balancing"; panic mode as in Envoy.
"""

import random
from collections.abc import Callable, Container, Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """What `pick` needs to know of an endpoint. Weight 0 means drained."""

    @property
    def healthy(self) -> bool:
        """What its node's health check last said."""

    @property
    def weight(self) -> int:
        """Its share of the connections, relative to the others'."""


E = TypeVar("E", bound=Candidate)


def pick(
    endpoints: Sequence[E],
    *,
    load: Callable[[E], float],
    rng: random.Random,
    exclude: Container[E] = frozenset(),
    ejected: Callable[[E], bool] = lambda _: False,
) -> E | None:
    """Choose an endpoint that is not in `exclude`; None when all are.

    Two are drawn by weight, and the one with less load per weight is taken. The first of these that is
    not empty is drawn from:

    1. healthy, not ejected, weight above 0;
    2. healthy, not ejected, drained: better than one that is known to fail;
    3. all others (panic): when every health check says no, the checks may be what is broken.

    Args:
        endpoints: the endpoints of one service port.
        load: how busy an endpoint is, in any unit; at least 0.
        rng: where the draws come from.
        exclude: the endpoints that were tried already.
        ejected: whether connections to an endpoint have failed lately.
    """
    rest = [endpoint for endpoint in endpoints if endpoint not in exclude]
    usable = [endpoint for endpoint in rest if endpoint.healthy and not ejected(endpoint)] or rest
    drawn_from = [endpoint for endpoint in usable if endpoint.weight > 0] or usable
    match drawn_from:
        case []:
            return None
        case [only]:
            return only
        case _:
            first = _draw(drawn_from, rng)
            others = [endpoint for endpoint in drawn_from if endpoint is not first]
            # The same value twice in the list leaves nothing to compare with.
            second = _draw(others, rng) if others else first
            return second if load(second) * _share(first) < load(first) * _share(second) else first


def _share(endpoint: Candidate) -> int:
    # Where all are drained they share alike.
    return endpoint.weight or 1


def _draw(endpoints: Sequence[E], rng: random.Random) -> E:
    point = rng.random() * sum(map(_share, endpoints))
    for endpoint in endpoints:
        point -= _share(endpoint)
        if point < 0:
            return endpoint
    return endpoints[-1]

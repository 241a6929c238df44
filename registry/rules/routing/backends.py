"""Which backend of a rule takes a request, by weight. Pure: randomness comes in as an argument."""

import random
from collections.abc import Sequence

from registry.rules.routing.values import Backend, Mirror, RoutingRule


def choose_backend(rule: RoutingRule, rng: random.Random) -> Backend | None:
    """Choose by weight; None when no backend has any, which is answered with 500.

    The mesh may not know the chosen one (`Backend.known`): that is answered with 500 too.
    """
    return choose_weighted(rule.backends, rule.total, rng)


def choose_weighted(backends: Sequence[Backend], total: int, rng: random.Random) -> Backend | None:
    """Choose one of `backends`, whose weights add up to `total`."""
    if total <= 0:
        return None
    if len(backends) == 1:
        return backends[0]
    point = rng.random() * total
    for backend in backends:
        point -= backend.weight
        if point < 0:
            return backend
    return next(backend for backend in reversed(backends) if backend.weight)


def choose_mirrors(mirrors: Sequence[Mirror], rng: random.Random) -> tuple[Backend, ...]:
    """Choose where copies of a request go."""
    return tuple(mirror.backend for mirror in mirrors if mirror.share >= 1 or rng.random() < mirror.share)

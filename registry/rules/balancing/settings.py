"""How the endpoints of a service are balanced, as numbers. Pure."""

from dataclasses import dataclass
from functools import lru_cache

from registry.model.backend_policy import (
    BalancingPolicy,
    LoadBalancing,
    LocalityPreference,
    OutlierEjection,
)
from registry.model.duration import seconds
from registry.rules.balancing.ejecting import EjectionRule
from registry.rules.balancing.keys import goes_by_hash, keeps_by_cookie


@dataclass(frozen=True, slots=True)
class Home:
    """Where the callers are; empty if their node does not say."""

    region: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in seconds, shares from 0 to 1.

    `by_hash` and `by_cookie` say what of a request may decide before `policy` does. `bound` is infinite where
    a key must keep its endpoint. `near` is the share of the near endpoints that must be good for all requests
    to stay there; `panic` the share of good ones under which all endpoints are used.
    """

    policy: BalancingPolicy
    by_hash: bool
    by_cookie: bool
    bound: float
    prefer: LocalityPreference
    near: float
    slow_start: float
    panic: float
    ejection: EjectionRule


@lru_cache(maxsize=1024)
def compile_settings(balancing: LoadBalancing, ejection: OutlierEjection) -> Settings:
    """Read what the operator wrote."""
    locality = balancing.locality
    session = balancing.sticky_session
    by_cookie = keeps_by_cookie(balancing)
    return Settings(
        policy=balancing.policy,
        by_hash=goes_by_hash(balancing),
        by_cookie=by_cookie,
        bound=balancing.bounded_load if session is None or by_cookie else float("inf"),
        prefer=LocalityPreference.NONE if locality is None else locality.prefer,
        near=1.0 if locality is None else locality.healthy_percent / 100,
        slow_start=seconds(balancing.slow_start) if balancing.slow_start else 0.0,
        panic=ejection.panic_percent / 100,
        ejection=EjectionRule.of(ejection),
    )

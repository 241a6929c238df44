"""Which endpoints stay although the store has lost them.

No I/O; the clock comes in. When most of a service's endpoints vanish at once, the likely fault is the
store, or the way to it: the last known ones are kept. One that vanishes alone is believed.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

# Leases granted at different moments end within one TTL of each other.
AT_ONCE = 10.0

T = TypeVar("T")


@dataclass(slots=True)
class _Service(Generic[T]):
    known: dict[str, T] = field(default_factory=dict)
    gone: dict[str, tuple[T, float]] = field(default_factory=dict)
    holding: bool = False


class Retention(Generic[T]):
    """Remembers each service's endpoints, and says which of the vanished ones are still to be used.

    Held endpoints are let go when at least half of the service is registered again.
    """

    def __init__(self, *, at_once: float = AT_ONCE) -> None:
        self._at_once = at_once
        self._services: dict[str, _Service[T]] = {}

    def keep(
        self, service: str, live: Mapping[str, T], *, stored: Container[str], now: float
    ) -> dict[str, T]:
        """Take the endpoints that are registered at `now`; give the vanished ones to keep.

        Args:
            service: whose endpoints.
            live: the registered endpoints behind it, by key.
            stored: the keys that exist; one that left the service but exists was moved on purpose.
            now: seconds of a clock that never goes back.
        """
        state = self._services.setdefault(service, _Service())
        for key, endpoint in state.known.items():
            if key not in live and key not in stored:
                state.gone[key] = (endpoint, now)
        state.known = dict(live)
        state.gone = {
            key: (endpoint, at)
            for key, (endpoint, at) in state.gone.items()
            if key not in stored and (state.holding or now - at <= self._at_once)
        }
        was_holding = state.holding
        state.holding = len(state.gone) >= 2 and len(state.gone) > len(live)
        if was_holding and not state.holding:
            state.gone.clear()
        return {key: endpoint for key, (endpoint, _) in state.gone.items()} if state.holding else {}

    def forget_all_but(self, services: Iterable[str]) -> None:
        """Drop what is known of services that exist no more."""
        keep = frozenset(services)
        for service in self._services.keys() - keep:
            del self._services[service]

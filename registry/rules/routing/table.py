"""The rules for requests to one port. Pure."""

from collections.abc import Sequence

from registry.rules.routing.call import HttpCall
from registry.rules.routing.index import Entry, EntryIndex
from registry.rules.routing.values import RouteMatch


class RouteTable:
    """The rules for one Service port and the callers of one namespace; `entries` are in no order."""

    __slots__ = ("_index", "entries")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self._index = EntryIndex(self.entries)

    def match(self, call: HttpCall) -> RouteMatch | None:
        """Find the rule for a request; None when there is none: 404."""
        return self._index.first(call)

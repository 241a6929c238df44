"""What a client connection is for, by which requests find those that are open. Pure."""

from typing import Final

from node_proxy.dataplane.http.message import Version
from node_proxy.snapshot import Endpoint

# Endpoints that one caller's connection goes to in turn, as a rule; more are looked up anew.
MAX_REMEMBERED: Final = 64


class UpstreamKey:
    """What a connection is for; made once and asked for often, so that its hash is kept.

    `version` is HTTP_11 or HTTP_2, `source` the caller's identity, `address` the caller's where it leads to
    it.
    """

    __slots__ = ("_hash", "address", "endpoint", "source", "version")

    def __init__(self, endpoint: Endpoint, version: Version, source: str, address: str | None) -> None:
        self.endpoint = endpoint
        self.version = version
        self.source = source
        self.address = address
        self._hash = hash((endpoint, version, source, address))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UpstreamKey) and (
            self.version is other.version
            and self.source == other.source
            and self.address == other.address
            and self.endpoint == other.endpoint
        )

    def __hash__(self) -> int:
        return self._hash


class KeyRing:
    """The keys of one caller."""

    def __init__(self, source: str, address: str | None) -> None:
        self._source = source
        self._address = address
        self._keys: dict[tuple[int, Version], UpstreamKey] = {}

    def key(self, endpoint: Endpoint, version: Version) -> UpstreamKey:
        """Give the key for an endpoint."""
        place = (id(endpoint), version)
        key = self._keys.get(place)
        # Another may have come to the place of one that is gone.
        if key is None or key.endpoint is not endpoint:
            if len(self._keys) >= MAX_REMEMBERED:
                self._keys.clear()
            key = self._keys[place] = UpstreamKey(endpoint, version, self._source, self._address)
        return key

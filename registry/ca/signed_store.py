"""Reads and writes what the authority signs: whatever else stands in the store is as good as absent.

Whoever can write to etcd could otherwise enrol nodes, make tokens and become an administrator.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from registry.ca.authority import Authority
from registry.ca.bundle import Trust
from registry.clock import Clock
from registry.errors import InvalidResource
from registry.model.parse import parse_as, render
from registry.model.resource import Resource
from registry.store.base import KeyIs, KeyValue, Listing, Put, Store
from registry.store.signed import Signatures, unsigned

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class Signed(Generic[R]):
    """A value whose signature holds, as it stands and as it reads."""

    item: KeyValue
    resource: R

    @property
    def unchanged(self) -> KeyIs:
        """The condition that it still stands."""
        return KeyIs(self.item.key, self.item.revision)


class SignedStore:
    """The store as the authority vouches for it."""

    def __init__(self, *, store: Store, authority: Authority, clock: Clock) -> None:
        self._store = store
        self._authority = authority
        self._clock = clock
        self._signatures = Signatures(trust_domain=authority.trust_domain, roots=())

    async def read(self, kind: type[R], place: str, *, trust: Trust | None = None) -> Signed[R] | None:
        """Read a value; None if there is none.

        Args:
            kind: what it is.
            place: its key.
            trust: whom to trust, if that was read already.

        Raises:
            InvalidResource: its signature does not hold, or it does not parse.
        """
        if trust is None:
            await self.refresh()
        else:
            self._signatures.trust(trust.roots)
        found = await self._store.get(place)
        return None if found is None else self.check(kind, found)

    async def list(self, folder: str) -> Listing:
        """Read a folder, to `check` each value."""
        await self.refresh()
        return await self._store.list(folder)

    def check(self, kind: type[R], item: KeyValue) -> Signed[R]:
        """Check a value that was read, against the roots of the last reading.

        Raises:
            InvalidResource: its signature does not hold, or it does not parse.
        """
        self._signatures.require(item.key, item.value, at=self._clock())
        return Signed(item, unsigned(parse_as(kind, item.value, where=item.key)))

    async def refresh(self) -> Trust:
        """Read whom to trust, for what is checked after this."""
        trust = await self._authority.refresh()
        self._signatures.trust(trust.roots)
        return trust

    def objection(self, item: KeyValue) -> str:
        """Say why a value's signature does not hold, whenever it was made; nothing when it does."""
        try:
            self._signatures.require(item.key, item.value, at=None)
        except InvalidResource as error:
            return error.describe()
        return ""

    def sign(self, place: str, value: bytes) -> bytes:
        """Sign canonical JSON for the key `place` with the key that issues now."""
        return self._authority.sign_resource(place, value)

    def put(self, place: str, resource: Resource, *, lease: int = 0) -> Put:
        """Give the write of a value, signed."""
        return Put(place, self.sign(place, render(resource)), lease)

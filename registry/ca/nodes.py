"""What an administrator decides about nodes after their tokens: approval, identities, the end.

What is taken away is taken from the enrolment first and revoked then: a certificate that was issued in
between is older than the revocation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from registry.ca.authority import Authority
from registry.ca.enrolment import full_identities
from registry.ca.revoking import Editor
from registry.ca.signed_store import Signed, SignedStore
from registry.clock import Clock, format_time
from registry.errors import Conflict, InvalidResource, NotFound
from registry.model.enrolment import Enrolment, EnrolmentSpec
from registry.model.identity import LABEL
from registry.model.parse import parse_as
from registry.store import keys
from registry.store.accounts import Accounts, NoAccounts
from registry.store.base import Delete, KeyIs, Store
from registry.store.signed import unsigned

# Administrators who change one node at the same time are few.
ATTEMPTS: Final = 8

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Edited:
    """A node's enrolment as it stands now, and whether that is another than before."""

    spec: EnrolmentSpec
    changed: bool


class NodeEditor:
    """Changes enrolments."""

    def __init__(
        self, *, store: Store, authority: Authority, clock: Clock, accounts: Accounts | None = None
    ) -> None:
        """Without `accounts` etcd's users are somebody else's to keep."""
        self._store = store
        self._authority = authority
        self._clock = clock
        self._accounts = accounts or NoAccounts()
        self._signed = SignedStore(store=store, authority=authority, clock=clock)
        self._revoking = Editor(store=store, authority=authority, clock=clock)

    async def approve(self, node: str) -> Edited:
        """Enrol a node that waits for it; or vouch for an enrolment whose signature does not hold, as it is.

        Raises:
            NotFound: no node of this name is enrolled, or waits.
            InvalidResource: what stands there is no enrolment.
            Conflict: it changes too often.
        """
        for _ in range(ATTEMPTS):
            place = _place(node)
            await self._authority.refresh()
            found = await self._store.get(place)
            if found is None:
                raise _unknown(node)
            try:
                enrolment, vouched = (await self._read(node)).resource, True
            except InvalidResource:
                enrolment, vouched = unsigned(parse_as(Enrolment, found.value, where=place)), False
            spec = enrolment.spec
            if vouched and not spec.pending:
                return Edited(spec, changed=False)
            if spec.pending:
                spec = msgspec.structs.replace(spec, pending=False, enrolled_at=format_time(self._clock()))
            write = self._signed.put(place, msgspec.structs.replace(enrolment, spec=spec))
            if await self._store.commit([KeyIs(place, found.revision)], [write]) is not None:
                _log.warning("node approved", node=node, identities=spec.identities)
                return Edited(spec, changed=True)
        raise _busy(node)

    async def allow(self, node: str, identities: Sequence[str]) -> Edited:
        """Let a node hold more identities.

        Raises:
            NotFound: no node of this name is enrolled.
            InvalidResource: an identity is none, or the enrolment's signature does not hold.
            Conflict: it changes too often.
        """
        more = self._full(identities)
        return await self._edit(node, lambda held: tuple(sorted({*held, *more})))

    async def forbid(self, node: str, identities: Sequence[str]) -> Edited:
        """Let a node no longer hold these identities, and revoke its certificates for them.

        Raises:
            NotFound: no node of this name is enrolled.
            InvalidResource: an identity is none, or the enrolment's signature does not hold.
            Conflict: it changes too often.
        """
        less = self._full(identities)
        edited = await self._edit(node, lambda held: tuple(each for each in held if each not in less))
        for identity in less:
            # Also if it was not listed: an earlier attempt may have ended between the two.
            await self._revoking.revoke("grant", f"{node} {identity}", reason="forbidden to this node")
        return edited

    async def revoke(self, node: str, *, reason: str) -> bool:
        """End a node's enrolment, revoke all its certificates and remove its etcd user.

        May be done again, should it end in the middle. Gives whether the node was enrolled.

        Raises:
            InvalidResource: that is no node's name.
            Conflict: it changes too often, or too many are revoked.
            StoreForbidden: etcd does not let us remove the user.
        """
        if not LABEL.match(node):
            raise InvalidResource(where="request path", path="", reason=f"{node!r} is no node's name")
        enrolled = await self._remove(node)
        await self._revoking.revoke("node", node, reason=reason)
        await self._accounts.expel(node)
        _log.warning("node revoked", node=node, reason=reason, enrolled=enrolled)
        return enrolled

    async def _remove(self, node: str) -> bool:
        for _ in range(ATTEMPTS):
            found = await self._store.get(_place(node))
            if found is None:
                return False
            if await self._store.commit([KeyIs(found.key, found.revision)], [Delete(found.key)]) is not None:
                return True
        raise _busy(node)

    async def _edit(self, node: str, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Edited:
        for _ in range(ATTEMPTS):
            found = await self._read(node)
            spec = found.resource.spec
            identities = change(spec.identities)
            if identities == spec.identities:
                return Edited(spec, changed=False)
            spec = msgspec.structs.replace(spec, identities=identities)
            write = self._signed.put(found.item.key, msgspec.structs.replace(found.resource, spec=spec))
            if await self._store.commit([found.unchanged], [write]) is not None:
                _log.warning("enrolment changed", node=node, identities=identities)
                return Edited(spec, changed=True)
        raise _busy(node)

    async def _read(self, node: str) -> Signed[Enrolment]:
        found = await self._signed.read(Enrolment, _place(node))
        if found is None:
            raise _unknown(node)
        return found

    def _full(self, identities: Sequence[str]) -> tuple[str, ...]:
        return full_identities(identities, self._authority.trust_domain, where="request body")


def _place(node: str) -> str:
    return keys.render(keys.EnrolmentKey(node))


def _unknown(node: str) -> NotFound:
    return NotFound(f"no node named {node!r} is enrolled or waits; `meshctl node list` shows them")


def _busy(node: str) -> Conflict:
    return Conflict(f"the enrolment of {node} is being changed by many at once; try again")

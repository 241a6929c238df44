"""The mesh as its nodes see it, read from the store; and what questions about it have in common."""

from collections.abc import Iterable, Sequence

from registry.api.authz_view import Former, MeshView
from registry.api.fleet import ENROLMENTS, NODES, FleetReader
from registry.errors import Conflict, InvalidResource
from registry.judgement import check
from registry.model.identity import Identity, InvalidIdentity, WorkloadIdentity, parse_identity
from registry.model.mesh import Mesh
from registry.model.parse import OPERATOR_KINDS, from_builtins
from registry.model.resource import Resource
from registry.store import keys
from registry.store.base import KeyValue, Store

# Everything that a proxy's decision depends on, and the decisions themselves.
_FOLDERS = (
    keys.render(keys.MeshKey()),
    *(f"{kind.PLURAL}/" for kind in OPERATOR_KINDS if kind is not Mesh),
    keys.render(keys.BundleKey()),
    ENROLMENTS,
    NODES,
)


class MeshReader:
    """Reads what there is to know."""

    def __init__(self, *, store: Store, fleet: FleetReader, trust_domain: str) -> None:
        self._store = store
        self._fleet = fleet
        self._trust_domain = trust_domain

    async def read(self, candidates: Sequence[Resource]) -> tuple[int, MeshView]:
        """Give the mesh as it would be with `candidates`, and the store's revision."""
        items: list[KeyValue] = []
        revision = 0
        for folder in _FOLDERS:
            listing = await self._store.list(folder)
            items += listing.items
            revision = listing.revision
        fleet = await self._fleet.judge([item for item in items if item.key.startswith((ENROLMENTS, NODES))])
        view = MeshView(items, fleet, self._trust_domain, candidates=candidates)
        if wanted := view.wanted_former():
            view.former = await self._former(wanted)
        return revision, view

    async def _former(self, wanted: Iterable[Former]) -> dict[Former, bytes]:
        """Read earlier versions, as far as they are not compacted away."""
        found: dict[Former, bytes] = {}
        for key, revision in wanted:
            try:
                listing = await self._store.list(key, revision=revision)
            except Conflict:
                continue
            for item in listing.items:
                if item.key == key and item.revision == revision:
                    found[key, revision] = item.value
        return found


def source_asked(text: str, trust_domain: str) -> Identity | None:
    """Read a caller's identity: ``namespace/account``, a SPIFFE ID, or empty for none.

    Raises:
        InvalidResource: it is neither.
    """
    if not text:
        return None
    try:
        return (
            parse_identity(text)
            if text.startswith("spiffe://")
            else WorkloadIdentity.from_short(text, trust_domain)
        )
    except InvalidIdentity as error:
        raise InvalidResource(where="request body", path="from", reason=str(error)) from error


def candidates_asked(asked: Sequence[dict[str, object]], trust_domain: str) -> tuple[Resource, ...]:
    """Read resources that take the place of the stored ones of their names.

    Raises:
        InvalidResource: one of them is invalid.
    """
    resources = []
    for number, document in enumerate(asked):
        where = f"candidate {number + 1}"
        resource = from_builtins(document, where=where, kinds=OPERATOR_KINDS)
        check(resource, trust_domain=trust_domain, where=where)
        resources.append(resource)
    return tuple(resources)

"""What operators write: read, written and removed by key, each edit a compare-and-swap."""

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from registry.api.auth import Administrators
from registry.api.bodies import Answer, answer, namespace_asked, read_body
from registry.ca.signed_store import SignedStore
from registry.errors import Conflict, InvalidResource, NotFound
from registry.judgement import KINDS_BY_PLURAL, OperatorKey, check, operator_key, read_resource, status_key
from registry.model.identity import LABEL
from registry.model.mesh import Mesh
from registry.model.parse import parse_as, render, to_builtins
from registry.model.resource import ROOT_NAMESPACE
from registry.model.signature import strip
from registry.model.status import Status, StatusSpec
from registry.store import keys
from registry.store.base import Delete, KeyIs, KeyValue, Put, Store
from registry.store.signed import unsigned

# Without a condition of the caller's an edit is tried again while others edit the same key.
ATTEMPTS = 8
_PATH = "/v1/resources/{plural}/{namespace}/{name}"

_log = structlog.get_logger()


class StoredAnswer(Answer, frozen=True, kw_only=True):
    """A resource as it is stored, or the error of a value that does not parse.

    `accepted` and `reasons` are the controller's judgement, left out until it has judged this revision.
    """

    key: str
    revision: int
    resource: dict[str, object] | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET
    accepted: bool | msgspec.UnsetType = msgspec.UNSET
    reasons: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class ListAnswer(Answer, frozen=True, kw_only=True):
    """The resources of a kind at one revision of the store."""

    revision: int
    items: tuple[StoredAnswer, ...]


class ResourceAnswer(Answer, frozen=True, kw_only=True):
    """One resource; null when what was removed did not parse. `accepted` and `reasons` as in a list."""

    revision: int
    resource: dict[str, object] | None
    created: bool | msgspec.UnsetType = msgspec.UNSET
    accepted: bool | msgspec.UnsetType = msgspec.UNSET
    reasons: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class ResourceHandlers:
    """``/v1/resources``."""

    def __init__(
        self, *, store: Store, administrators: Administrators, signed: SignedStore, trust_domain: str
    ) -> None:
        self._store = store
        self._administrators = administrators
        self._signed = signed
        self._trust_domain = trust_domain

    def routes(self) -> list[Route]:
        """Give this group's routes."""
        only = self._administrators.only
        return [
            Route("/v1/resources/{plural}", only(self.list_resources)),
            Route(_PATH, only(self.get), methods=["GET"]),
            Route(_PATH, only(self.put), methods=["PUT"]),
            Route(_PATH, only(self.delete), methods=["DELETE"]),
        ]

    async def list_resources(self, request: Request, _administrator: str) -> Response:
        """Give every resource of a kind."""
        plural = _known(request.path_params["plural"])
        namespace = namespace_asked(request)
        if plural == Mesh.PLURAL:
            folder = keys.render(keys.MeshKey())
        else:
            folder = f"{plural}/{namespace}/" if namespace else f"{plural}/"
        listing = await self._store.list(folder)
        statuses = {each.key: each for each in (await self._store.list(f"status/{plural}/")).items}
        items = []
        for item in listing.items:
            match keys.parse(item.key):
                case keys.ResourceKey() as key if key.plural == plural:
                    items.append(_describe(key, item, statuses.get(keys.render(status_key(key)))))
                case keys.MeshKey() as key if plural == Mesh.PLURAL and namespace in (None, ROOT_NAMESPACE):
                    items.append(_describe(key, item, statuses.get(keys.render(status_key(key)))))
                case _:
                    pass
        return answer(ListAnswer(revision=listing.revision, items=tuple(items)))

    async def get(self, request: Request, _administrator: str) -> Response:
        """Give one resource."""
        key = _key_asked(request)
        item = await self._existing(key)
        resource = unsigned(read_resource(key, item.value, where=item.key))
        status = _judgement(item, await self._store.get(keys.render(status_key(key))))
        return _answer(item.revision, to_builtins(resource), status=status)

    async def put(self, request: Request, administrator: str) -> Response:
        """Write a resource that parses, fits its key and agrees with the mesh, signed by the authority."""
        key = _key_asked(request)
        place = keys.render(key)
        resource = unsigned(read_resource(key, await read_body(request), where="request body"))
        check(resource, trust_domain=self._trust_domain, where="request body")
        value = render(resource)
        await self._signed.refresh()
        for _ in range(ATTEMPTS):
            current = await self._store.get(place)
            _check_condition(request, place, current)
            if current is not None and self._is(current, value):
                # Applying what is already there makes no edit for every node to read.
                return _answer(current.revision, to_builtins(resource), created=False)
            before = current.revision if current else 0
            write = Put(place, self._signed.sign(place, value))
            revision = await self._store.commit([KeyIs(place, before)], [write])
            if revision is not None:
                _log.info("resource written", key=place, revision=revision, administrator=administrator)
                return _answer(revision, to_builtins(resource), created=current is None)
        raise _busy(place)

    async def delete(self, request: Request, administrator: str) -> Response:
        """Remove a resource, whether it parses or not."""
        key = _key_asked(request)
        for _ in range(ATTEMPTS):
            current = await self._existing(key)
            _check_condition(request, current.key, current)
            revision = await self._store.commit([KeyIs(current.key, current.revision)], [Delete(current.key)])
            if revision is not None:
                _log.info("resource removed", key=current.key, revision=revision, administrator=administrator)
                removed = _describe(key, current).resource
                return _answer(revision, None if removed is msgspec.UNSET else removed)
        raise _busy(keys.render(key))

    def _is(self, current: KeyValue, value: bytes) -> bool:
        """Whether a value stands, and is signed; one that was written by hand is signed by applying it."""
        return strip(current.value) == value and not self._signed.objection(current)

    async def _existing(self, key: OperatorKey) -> KeyValue:
        place = keys.render(key)
        if (item := await self._store.get(place)) is None:
            raise NotFound(f"there is no {place}")
        return item


def _known(plural: str) -> str:
    if plural not in KINDS_BY_PLURAL:
        raise NotFound(f"operators write no {plural!r}; there are: {', '.join(sorted(KINDS_BY_PLURAL))}")
    return plural


def _key_asked(request: Request) -> OperatorKey:
    plural = _known(request.path_params["plural"])
    namespace, name = request.path_params["namespace"], request.path_params["name"]
    if plural == Mesh.PLURAL:
        if (namespace, name) != (ROOT_NAMESPACE, Mesh.PLURAL):
            raise NotFound(f"the mesh is {Mesh.PLURAL}/{ROOT_NAMESPACE}/{Mesh.PLURAL}")
        return keys.MeshKey()
    key = keys.ResourceKey(plural, namespace, name)
    if operator_key(keys.render(key)) is None:
        wrong = name if LABEL.match(namespace) else namespace
        raise InvalidResource(
            where="request path",
            path="",
            reason=f"{wrong!r} cannot be a name",
            mend="write lower-case letters, digits and dashes, at most 63",
        )
    return key


def _check_condition(request: Request, place: str, current: KeyValue | None) -> None:
    """Check the request's If-Match and If-None-Match (RFC 9110 section 13.1) against what is stored.

    Raises:
        Conflict: they do not hold.
        InvalidResource: they are of a form we do not use.
    """
    if (absent := request.headers.get("if-none-match")) is not None:
        if absent != "*":
            raise _bad_condition("If-None-Match", "write *")
        if current is not None:
            raise Conflict(f"{place} exists already, at revision {current.revision}")
    if (match := request.headers.get("if-match")) is not None:
        wanted = match.removeprefix('"').removesuffix('"')
        if not wanted.isascii() or not wanted.isdecimal():
            raise _bad_condition("If-Match", 'write the revision in quotes, as in "42"')
        if current is None:
            raise Conflict(f"{place} does not exist any more")
        if current.revision != int(wanted):
            raise Conflict(f"{place} was changed at revision {current.revision}, you read {wanted}")


def _bad_condition(header: str, mend: str) -> InvalidResource:
    return InvalidResource(where=f"header {header}", path="", reason="is not understood", mend=mend)


def _busy(place: str) -> Conflict:
    return Conflict(f"{place} is being changed by many at once; try again")


def _describe(key: OperatorKey, item: KeyValue, judged: KeyValue | None = None) -> StoredAnswer:
    try:
        resource = unsigned(read_resource(key, item.value, where=item.key))
    except InvalidResource as error:
        return StoredAnswer(key=item.key, revision=item.revision, error=error.describe())
    status = _judgement(item, judged)
    return StoredAnswer(
        key=item.key,
        revision=item.revision,
        resource=to_builtins(resource),
        accepted=msgspec.UNSET if status is None else status.accepted,
        reasons=msgspec.UNSET if status is None else status.reasons,
    )


def _judgement(item: KeyValue, judged: KeyValue | None) -> StatusSpec | None:
    """Read what the controller says of a value; None if it has not judged that one yet."""
    if judged is None:
        return None
    try:
        status = parse_as(Status, judged.value, where=judged.key).spec
    except InvalidResource:
        # Damaged by hand; the controller writes it anew.
        return None
    return status if status.revision == item.revision else None


def _answer(
    revision: int,
    resource: dict[str, object] | None,
    *,
    created: bool | msgspec.UnsetType = msgspec.UNSET,
    status: StatusSpec | None = None,
) -> Response:
    body = ResourceAnswer(
        revision=revision,
        resource=resource,
        created=created,
        accepted=msgspec.UNSET if status is None else status.accepted,
        reasons=msgspec.UNSET if status is None else status.reasons,
    )
    return answer(body, headers={"etag": f'"{revision}"'})

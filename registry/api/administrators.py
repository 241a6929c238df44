"""Who operates the mesh: administrators and their roles."""

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from registry.api.auth import FOLDER, Administrators, Caller, new_administrator
from registry.api.bodies import Answer, Asked, answer, decode, read_body
from registry.ca.signed_store import SignedStore
from registry.clock import Clock
from registry.errors import Conflict, InvalidResource, NotFound
from registry.model.administrator import Role
from registry.model.resource import Name
from registry.store import keys
from registry.store.base import Delete, KeyIs, Put, Store

_log = structlog.get_logger()


class AdministratorAsked(Asked, frozen=True, kw_only=True):
    """A new administrator."""

    name: Name
    role: Role


class AdministratorMade(Answer, frozen=True, kw_only=True):
    """A new administrator and its token, whole, this once."""

    name: str
    role: Role
    token: str


class AdministratorAnswer(Answer, frozen=True, kw_only=True):
    """An administrator; `created_at` is null where it was not noted."""

    name: str
    role: Role
    created_at: str | None


class AdministratorsAnswer(Answer, frozen=True, kw_only=True):
    """Every administrator, by name. `remarks` tell of entries that count for nothing."""

    items: tuple[AdministratorAnswer, ...]
    remarks: tuple[str, ...]


class CallerAnswer(Answer, frozen=True, kw_only=True):
    """Whose token it was that came with the request."""

    name: str
    role: Role


class RemovedAnswer(Answer, frozen=True, kw_only=True):
    """The administrator that is no more."""

    name: str


class AdministratorHandlers:
    """``/v1/administrators``, and ``/v1/whoami``."""

    def __init__(
        self, *, store: Store, administrators: Administrators, signed: SignedStore, clock: Clock
    ) -> None:
        self._store = store
        self._administrators = administrators
        self._signed = signed
        self._clock = clock

    def routes(self) -> list[Route]:
        """Give this group's routes."""
        guard = self._administrators.guard
        return [
            Route("/v1/whoami", guard(self.whoami)),
            Route("/v1/administrators", guard(self.list_administrators, admin=True), methods=["GET"]),
            Route("/v1/administrators", guard(self.create, admin=True), methods=["POST"]),
            Route("/v1/administrators/{name}", guard(self.remove, admin=True), methods=["DELETE"]),
        ]

    async def whoami(self, _request: Request, caller: Caller) -> Response:
        """Say who asks."""
        return answer(CallerAnswer(name=caller.name, role=caller.role))

    async def list_administrators(self, _request: Request, _caller: Caller) -> Response:
        """Give every administrator, without anything of its token."""
        items, remarks = [], []
        for item in (await self._signed.list(FOLDER)).items:
            try:
                spec = self._administrators.read(item)
            except InvalidResource as error:
                remarks.append(error.describe())
                continue
            name = item.key.removeprefix(FOLDER)
            items.append(AdministratorAnswer(name=name, role=spec.role, created_at=spec.created_at or None))
        return answer(AdministratorsAnswer(items=tuple(items), remarks=tuple(remarks)))

    async def create(self, request: Request, caller: Caller) -> Response:
        """Make an administrator, signed by the authority. A role is not changed: removed, and made anew."""
        asked = decode(await read_body(request), AdministratorAsked)
        token, write = new_administrator(asked.name, now=self._clock(), role=asked.role)
        made = Put(write.key, self._signed.sign(write.key, write.value))
        if await self._store.commit([KeyIs(made.key, 0), caller.unchanged], [made]) is None:
            if await self._store.get(made.key) is None:
                raise _busy()
            raise Conflict(
                f"there is an administrator {asked.name} already; remove that one, or choose another name"
            )
        _log.warning(
            "administrator created", name=asked.name, role=asked.role.value, administrator=caller.name
        )
        return answer(AdministratorMade(name=asked.name, role=asked.role, token=token))

    async def remove(self, request: Request, caller: Caller) -> Response:
        """Remove an administrator, whether its entry counts or not.

        Nobody removes themselves, and who is removed meanwhile removes nobody: so an admin always remains.
        """
        name = request.path_params["name"]
        if name == caller.name:
            raise Conflict(f"{name} is you; let another admin remove you, so that one remains")
        found = await self._store.get(keys.render(keys.AdministratorKey(name)))
        if found is None:
            raise NotFound(f"there is no administrator {name!r}; `meshctl admin list` shows them")
        unchanged = KeyIs(found.key, found.revision)
        if await self._store.commit([unchanged, caller.unchanged], [Delete(found.key)]) is None:
            raise _busy()
        _log.warning("administrator removed", name=name, administrator=caller.name)
        return answer(RemovedAnswer(name=name))


def _busy() -> Conflict:
    return Conflict("administrators are being changed by others at this moment; try again")

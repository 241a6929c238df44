"""Services with what stands behind them."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from registry.api.auth import Administrators
from registry.api.bodies import Answer, answer, namespace_asked
from registry.api.fleet import FleetReader
from registry.api.service_view import ServiceAnswer, describe_external, describe_service
from registry.errors import NotFound
from registry.model.external_service import ExternalService
from registry.model.service import Service
from registry.store import keys
from registry.store.base import KeyValue, Store


class ServicesAnswer(Answer, frozen=True, kw_only=True):
    """Services by namespace and name."""

    items: tuple[ServiceAnswer, ...]


class ServiceHandlers:
    """``/v1/services``."""

    def __init__(
        self, *, store: Store, administrators: Administrators, fleet: FleetReader, trust_domain: str
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._administrators = administrators
        self._trust_domain = trust_domain

    def routes(self) -> list[Route]:
        """Give this group's routes."""
        return [
            Route("/v1/services", self._administrators.only(self.list_services)),
            Route("/v1/services/{namespace}/{name}", self._administrators.only(self.get_service)),
        ]

    async def list_services(self, request: Request, _administrator: str) -> Response:
        """Give the services of one namespace, or of all; behind them those outside the mesh."""
        namespace = namespace_asked(request)
        fleet = await self._fleet.read()
        items = [
            describe_service(key, item, status, fleet, trust_domain=self._trust_domain)
            for key, item, status in await self._stored(Service.PLURAL, namespace)
        ]
        items += [
            describe_external(key, item, status)
            for key, item, status in await self._stored(ExternalService.PLURAL, namespace)
        ]
        return answer(ServicesAnswer(items=tuple(items)))

    async def _stored(
        self, plural: str, namespace: str | None
    ) -> list[tuple[keys.ResourceKey, KeyValue, KeyValue | None]]:
        folder = f"{plural}/{namespace}/" if namespace else f"{plural}/"
        found = await self._store.list(folder)
        statuses = {item.key: item for item in (await self._store.list(f"status/{folder}")).items}
        return [
            (key, item, statuses.get(keys.render(_status_key(key))))
            for item in found.items
            if isinstance(key := keys.parse(item.key), keys.ResourceKey)
        ]

    async def get_service(self, request: Request, _administrator: str) -> Response:
        """Give one service; one outside the mesh where none within has the name."""
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        key = keys.ResourceKey(Service.PLURAL, namespace, name)
        item = await self._store.get(keys.render(key))
        if item is None:
            return await self._get_external(keys.ResourceKey(ExternalService.PLURAL, namespace, name))
        status = await self._store.get(keys.render(_status_key(key)))
        fleet = await self._fleet.read()
        return answer(describe_service(key, item, status, fleet, trust_domain=self._trust_domain))

    async def _get_external(self, key: keys.ResourceKey) -> Response:
        item = await self._store.get(keys.render(key))
        if item is None:
            raise NotFound(f"there is no service {key.namespace}/{key.name}")
        return answer(describe_external(key, item, await self._store.get(keys.render(_status_key(key)))))


def _status_key(key: keys.ResourceKey) -> keys.StatusKey:
    return keys.StatusKey(key.plural, key.namespace, key.name)

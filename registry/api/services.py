"""Services with what stands behind them."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from registry.api.auth import Administrators
from registry.api.bodies import Answer, answer, namespace_asked
from registry.api.fleet import FleetReader
from registry.api.service_view import ServiceAnswer, describe_service
from registry.errors import NotFound
from registry.model.service import Service
from registry.store import keys
from registry.store.base import Store


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
        """Give the services of one namespace, or of all."""
        folder = f"{Service.PLURAL}/"
        if namespace := namespace_asked(request):
            folder += f"{namespace}/"
        services = await self._store.list(folder)
        statuses = {item.key: item for item in (await self._store.list(f"status/{folder}")).items}
        fleet = await self._fleet.read()
        items = []
        for item in services.items:
            key = keys.parse(item.key)
            if isinstance(key, keys.ResourceKey):
                status = statuses.get(keys.render(_status_key(key)))
                items.append(describe_service(key, item, status, fleet, trust_domain=self._trust_domain))
        return answer(ServicesAnswer(items=tuple(items)))

    async def get_service(self, request: Request, _administrator: str) -> Response:
        """Give one service."""
        key = keys.ResourceKey(Service.PLURAL, request.path_params["namespace"], request.path_params["name"])
        item = await self._store.get(keys.render(key))
        if item is None:
            raise NotFound(f"there is no service {key.namespace}/{key.name}")
        status = await self._store.get(keys.render(_status_key(key)))
        fleet = await self._fleet.read()
        return answer(describe_service(key, item, status, fleet, trust_domain=self._trust_domain))


def _status_key(key: keys.ResourceKey) -> keys.StatusKey:
    return keys.StatusKey(key.plural, key.namespace, key.name)

"""Routing cases as data, written from Gateway API's specification: routes, requests and what comes of them.

Each file but ``world.yaml``, which has the services, holds scenarios: `routes` and `cases`. Routes are as
people write them but for what every one has: `name` (``route``), `namespace` (``default``), the `revision` at
which it was made (1), and `parentRefs` (the service ``api``) and all else of its spec. A backend that is a
name alone is its port 80.

A case is a request, and what is expected:

- `from` (``default/web``, or ``none``), `to` (``api:80``), `method`, `host`, `path`, `headers`, or `grpc` for
  a call of a method. `answered` are headers of the backend's answer.
- `backend`: the one the request reaches, as ``[namespace/]name[:port]``; or `status` of an answer that the
  proxy makes itself; or `shares` by backend, or by status, within two points.
- `sees`: what the backend is asked for; `answer`: what the caller gets; both with `headers` by name, joined
  by ``,``, and names of those they are `without`.
- `mirrors`: the shares that are copied to other backends; `rule`: the route and the number of its rule.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.parse import from_builtins
from registry.model.resource import Resource
from registry.model.service import PortProtocol
from registry.model.tcp_route import TCPRoute
from registry.rules.routing import RouteBook

FOLDER = Path(__file__).parent
WORLD = FOLDER / "world.yaml"


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Message(_Data, frozen=True, kw_only=True):
    """What is to be found in a request or an answer; None is not looked at."""

    path: str | None = None
    host: str | None = None
    headers: dict[str, str] = {}
    without: tuple[str, ...] = ()


class Case(_Data, frozen=True, kw_only=True):
    """One request and what must come of it."""

    from_: str = msgspec.field(default="default/web", name="from")
    to: str | None = None
    method: str | None = None
    host: str = "api"
    path: str = "/"
    headers: dict[str, str] = {}
    grpc: str | None = None
    answered: dict[str, str] = {}
    backend: str | None = None
    status: int | None = None
    shares: dict[str, float] | None = None
    sees: Message = Message()
    answer: Message = Message()
    mirrors: dict[str, float] | None = None
    rule: str | None = None

    @property
    def caller_namespace(self) -> str | None:
        """Where the caller's identity is from."""
        return None if self.from_ == "none" else self.from_.partition("/")[0]

    @property
    def replayable(self) -> bool:
        """Whether real proxies can be asked: every caller of theirs has an identity."""
        return self.from_ != "none"

    @property
    def called(self) -> tuple[str, int]:
        """The service, as ``namespace/name``, and its port."""
        return port_of(self.to or ("api:9090" if self.grpc is not None else "api:80"))

    @property
    def request(self) -> tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]]]:
        """Method, authority, target and fields."""
        method, path, headers = self.method or "GET", self.path, self.headers
        if self.grpc is not None:
            method, path = "POST", f"/{self.grpc}"
            headers = {"content-type": "application/grpc", "te": "trailers"} | headers
        fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        return method.encode(), self.host.lower().encode(), path.encode(), fields


class Scenario(_Data, frozen=True, kw_only=True):
    """Routes, and requests to what they are attached to."""

    name: str
    routes: tuple[dict[str, Any], ...]
    cases: tuple[Case, ...]

    def resources(self) -> Iterator[tuple[Resource, int]]:
        """Give the routes, each with the revision at which it was made.

        Raises:
            InvalidResource: a route is one that the mesh would refuse.
        """
        for written in self.routes:
            spec = {"parentRefs": [{"name": "api"}]} | written
            document = {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": spec.pop("kind"),
                "metadata": {
                    "name": spec.pop("name", "route"),
                    "namespace": spec.pop("namespace", "default"),
                },
                "spec": spec,
            }
            revision = spec.pop("revision", 1)
            spec["rules"] = [_whole(rule) for rule in spec["rules"]]
            yield from_builtins(document, where=self.name, kinds=(HTTPRoute, GRPCRoute, TCPRoute)), revision

    def book(self) -> RouteBook:
        """Give the routes ready to be asked."""
        made = tuple(self.resources())
        return RouteBook(
            http_routes=tuple((each, at) for each, at in made if isinstance(each, HTTPRoute)),
            grpc_routes=tuple((each, at) for each, at in made if isinstance(each, GRPCRoute)),
            tcp_routes=tuple((each, at) for each, at in made if isinstance(each, TCPRoute)),
            services=read_world(),
        )


def _whole(rule: dict[str, Any]) -> dict[str, Any]:
    if "backendRefs" not in rule:
        return rule
    refs = [{"name": ref, "port": 80} if isinstance(ref, str) else ref for ref in rule["backendRefs"]]
    return rule | {"backendRefs": refs}


def port_of(text: str) -> tuple[str, int]:
    """Read ``[namespace/]name[:port]``; the port is 80 unless given."""
    name, _, port = text.partition(":")
    return name if "/" in name else f"default/{name}", int(port or 80)


@functools.cache
def read_world() -> dict[str, dict[int, PortProtocol]]:
    """Read the services."""
    return msgspec.convert(
        yaml.safe_load(WORLD.read_text()), dict[str, dict[int, PortProtocol]], str_keys=False
    )


def read_scenarios() -> Iterator[tuple[str, Scenario]]:
    """Give each scenario with the name of its file."""
    for path in sorted(FOLDER.glob("*.yaml")):
        if path != WORLD:
            for document in yaml.safe_load(path.read_text()):
                yield path.stem, msgspec.convert(document, Scenario)

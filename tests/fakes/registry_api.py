"""The registry's admin API as an httpx transport, over a dict.

Kept honest by the tests of apply, get and delete, which run over the real application too.

Judges resources with the real model; answers problem documents as the real one does. What nodes and
controllers would say is set by the test.
"""

import json
from collections.abc import Callable
from typing import Any

import httpx

from registry.errors import Conflict, InvalidResource, NotFound, RegistryError, Unauthenticated
from registry.judgement import KINDS_BY_PLURAL, OperatorKey, read_resource
from registry.model.mesh import Mesh
from registry.model.parse import render, to_builtins
from registry.store import keys

TOKEN = "an-administrators-token"


class FakeRegistry(httpx.BaseTransport):
    """Answers as a registry that knows one administrator, whose token is TOKEN."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[int, bytes]] = {}
        self.revision = 1
        self.nodes: list[dict[str, Any]] = []
        self.etcd_users: bool | None = True
        self.decided: list[tuple[str, str, dict[str, Any]]] = []
        self.services: list[dict[str, Any]] = []
        self.proxies: list[dict[str, Any]] = []
        self.tokens: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.hosts: list[str] = []
        # Takes every request's place when set.
        self.instead: Callable[[httpx.Request], httpx.Response] | None = None

    def put(self, key: str, value: bytes) -> int:
        """Write as etcdctl would, unjudged."""
        self.revision += 1
        self.stored[key] = (self.revision, value)
        return self.revision

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Note a request, and answer it or refuse its token."""
        self.asked.append(f"{request.method} {request.url.path}")
        self.hosts.append(request.url.host)
        if self.instead is not None:
            return self.instead(request)
        try:
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                raise Unauthenticated("this token is no administrator's")
            return self._answer(request)
        except RegistryError as error:
            return problem(error)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        namespace = request.url.params.get("namespace")
        match request.method, request.url.path.removeprefix("/v1/").split("/"):
            case "POST", ["tokens"]:
                self.tokens.append(json.loads(request.content))
                made = {"id": "t1", "token": "nm1.t1.secret.ab12", "expiresAt": "2026-01-01T13:00:00Z"}
                return httpx.Response(200, json=made)
            case "GET", ["nodes"]:
                return httpx.Response(200, json={"items": self.nodes, "etcdUsers": self.etcd_users})
            case "POST", ["nodes", node, "revoke"]:
                self.decided.append((node, "revoke", json.loads(request.content)))
                return httpx.Response(200, json={"node": node, "enrolled": node != "nobody"})
            case "POST", ["nodes", node, decision]:
                asked = json.loads(request.content or "{}")
                self.decided.append((node, decision, asked))
                identities = asked.get("identities", [])
                answer = {"node": node, "identities": identities, "changed": node != "unchanged"}
                return httpx.Response(200, json=answer)
            case "GET", ["proxy", "status"]:
                return httpx.Response(200, json={"revision": self.revision, "items": self.proxies})
            case "GET", ["services"]:
                found = [each for each in self.services if namespace in (None, each["namespace"])]
                return httpx.Response(200, json={"items": found})
            case "GET", ["services", within, name]:
                for each in self.services:
                    if (each["namespace"], each["name"]) == (within, name):
                        return httpx.Response(200, json=each)
                raise NotFound(f"there is no service {within}/{name}")
            case "GET", ["resources", plural]:
                return self._list(plural, namespace)
            case method, ["resources", plural, within, name]:
                return self._one(method, _key(plural, within, name), request)
        raise NotFound(request.url.path)

    def _list(self, plural: str, namespace: str | None) -> httpx.Response:
        items = []
        for place, (revision, value) in sorted(self.stored.items()):
            match keys.parse(place):
                case keys.MeshKey() as key if plural == Mesh.PLURAL:
                    items.append(_describe(key, revision, value))
                case keys.ResourceKey() as key if key.plural == plural and namespace in (None, key.namespace):
                    items.append(_describe(key, revision, value))
        return httpx.Response(200, json={"revision": self.revision, "items": items})

    def _one(self, method: str, key: OperatorKey, request: httpx.Request) -> httpx.Response:
        place = keys.render(key)
        if method == "PUT":
            return self._put(key, place, request)
        if place not in self.stored:
            raise NotFound(f"there is no {place}")
        revision, value = self.stored[place]
        if method == "DELETE":
            del self.stored[place]
            return httpx.Response(200, json={"revision": self.revision + 1, "resource": None})
        resource = to_builtins(read_resource(key, value, where=place))
        return httpx.Response(200, json={"revision": revision, "resource": resource})

    def _put(self, key: OperatorKey, place: str, request: httpx.Request) -> httpx.Response:
        resource = read_resource(key, request.content, where="request body")
        current, _ = self.stored.get(place, (0, b""))
        if request.headers.get("if-none-match") == "*" and current:
            raise Conflict(f"{place} exists already, at revision {current}")
        if request.headers.get("if-match", f'"{current}"') != f'"{current}"':
            raise Conflict(f"{place} was changed at revision {current}")
        revision = self.put(place, render(resource))
        answer = {"revision": revision, "resource": to_builtins(resource), "created": not current}
        return httpx.Response(200, json=answer)


def problem(error: RegistryError) -> httpx.Response:
    """Give an error's problem document."""
    document: dict[str, object] = {"title": error.title, "status": error.status, "detail": str(error)}
    if isinstance(error, InvalidResource):
        document |= {"where": error.where, "path": error.path, "reason": error.reason, "mend": error.mend}
    return httpx.Response(error.status, json=document, headers={"content-type": "application/problem+json"})


def _key(plural: str, namespace: str, name: str) -> OperatorKey:
    if plural not in KINDS_BY_PLURAL:
        raise NotFound(f"operators write no {plural!r}")
    return keys.MeshKey() if plural == Mesh.PLURAL else keys.ResourceKey(plural, namespace, name)


def _describe(key: OperatorKey, revision: int, value: bytes) -> dict[str, object]:
    place = keys.render(key)
    try:
        resource = read_resource(key, value, where=place)
    except InvalidResource as error:
        return {"key": place, "revision": revision, "error": error.describe()}
    return {"key": place, "revision": revision, "resource": to_builtins(resource)}

"""Nodes, proxies and services as operators see them."""

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from registry.statuses import plan
from registry.store.base import KeyValue, Put
from registry.store.memory import MemoryStore
from tests.registry.api.mesh import MESH, signed
from tests.registry.ca.material import TRUST_DOMAIN

WEB = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/web"
API = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/api"


def resource(
    kind: str, name: str, spec: dict[str, Any], *, namespace: str = "nodemesh-system", **metadata: Any
) -> bytes:
    document = {
        "apiVersion": "nodemesh/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace} | metadata,
        "spec": spec,
    }
    return json.dumps(document).encode()


async def enrol(store: MemoryStore, node: str, *identities: str) -> None:
    spec = {"node": node, "identities": identities, "enrolledAt": "2026-03-01T12:00:00Z"}
    place = f"enrolments/{node}"
    await store.put(place, signed(place, resource("Enrolment", node, spec)))


async def record(store: MemoryStore, node: str, address: str) -> None:
    spec = {"address": address, "region": "eu", "zone": "a", "version": "0.1.0"}
    place = f"nodes/{node}/record"
    await store.put(place, signed(place, resource("Node", node, spec)))


async def workload(
    store: MemoryStore, node: str, name: str = "web", *, identity: str = WEB, **spec: Any
) -> None:
    value = resource(
        "Workload",
        name,
        {"node": node, "identity": identity, "ports": [8080]} | spec,
        namespace="default",
        labels={"app": "web"},
    )
    place = f"nodes/{node}/workloads/default/{name}"
    await store.put(place, signed(place, value))


async def service(store: MemoryStore, name: str = "web", **spec: Any) -> None:
    value = resource(
        "Service",
        name,
        {"ports": [{"port": 80, "targetPort": 8080, "name": "http"}], "selector": {"app": "web"}} | spec,
        namespace="default",
    )
    await store.put(f"services/default/{name}", value)


async def judge(store: MemoryStore) -> None:
    """Do what the controller would."""
    state: dict[str, KeyValue] = {item.key: item for item in (await store.list("")).items}
    for write in plan(state, trust_domain=TRUST_DOMAIN, now=datetime(2026, 3, 1, tzinfo=UTC)):
        assert isinstance(write, Put)
        await store.put(write.key, write.value)


class TestNodes:
    async def test_live(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A node that lives is shown with its record, enrolment and workloads."""
        await enrol(store, "web-1", WEB)
        await record(store, "web-1", "10.0.0.1")
        await workload(store, "web-1", health="unhealthy")
        assert (await admin.get("/v1/nodes")).json() == {
            "items": [
                {
                    "node": "web-1",
                    "live": True,
                    "pending": False,
                    "address": "10.0.0.1",
                    "tunnelPort": 15008,
                    "region": "eu",
                    "zone": "a",
                    "version": "0.1.0",
                    "enrolledAt": "2026-03-01T12:00:00Z",
                    "identities": [WEB],
                    "workloads": [
                        {"name": "default/web", "identity": WEB, "ports": [8080], "health": "unhealthy"}
                    ],
                    "remarks": [],
                }
            ],
            "etcdUsers": None,
        }

    async def test_away(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A node whose lease is over is shown as enrolled and not live."""
        await enrol(store, "web-1", WEB)
        (node,) = (await admin.get("/v1/nodes")).json()["items"]
        assert (node["live"], node["address"], node["workloads"]) == (False, None, [])
        assert node["identities"] == [WEB]

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("nodes/web-1/record", b"nonsense: ["),
            ("nodes/web-1/status", b"{}"),
            ("nodes/web-1/workloads/default/web", b"{}"),
            (
                "nodes/web-1/workloads/default/web",
                resource(
                    "Workload",
                    "web",
                    {"node": "web-2", "identity": WEB, "ports": [80]},
                    namespace="default",
                ),
            ),
            ("enrolments/web-1", b"{}"),
        ],
    )
    async def test_unreadable(
        self, admin: httpx.AsyncClient, store: MemoryStore, key: str, value: bytes
    ) -> None:
        """A value that does not parse, or speaks for another node, is a remark and hides nobody."""
        await record(store, "web-2", "10.0.0.2")
        await store.put(key, value)
        first, second = (await admin.get("/v1/nodes")).json()["items"]
        assert (first["node"], first["workloads"]) == ("web-1", [])
        assert key in first["remarks"][0]
        assert second["live"]

    async def test_not_vouched_for(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """What a node has not signed itself, or may not be, is a remark and does not count."""
        await enrol(store, "web-1", API)
        await store.put("nodes/web-1/record", MESH.node("web-2").sign("nodes/web-1/record", b"{}"))
        await workload(store, "web-1")
        (node,) = (await admin.get("/v1/nodes")).json()["items"]
        assert (node["live"], node["address"]) == (True, None)
        assert len(node["remarks"]) == 2
        assert "not enrolled for" in node["remarks"][1]


class TestProxyStatus:
    async def test_status(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Each node is shown with what it applied and refused, beside the newest revision it must apply."""
        await enrol(store, "web-1")
        await enrol(store, "web-2")
        spec = {
            "appliedRevision": 7,
            "workers": 2,
            "certificateExpires": "2026-03-02T12:00:00Z",
            "rejected": [{"key": "services/default/bad", "reason": "no", "lastGoodRevision": 5}],
            "faults": ["slow of BackendPolicy default/web: of requests to default/web 10 % wait 5s"],
        }
        revision = await store.put("services/default/bad", b"no")
        # A node's own report is nothing that nodes enforce.
        await store.put("nodes/web-1/status", resource("NodeStatus", "web-1", spec))
        answer = (await admin.get("/v1/proxy/status")).json()
        assert answer == {
            "revision": revision,
            "items": [
                {"node": "web-1", "live": False} | spec,
                {
                    "node": "web-2",
                    "live": False,
                    "appliedRevision": None,
                    "workers": None,
                    "certificateExpires": None,
                    "rejected": [],
                    "faults": [],
                },
            ],
        }


class TestServices:
    async def test_usable(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A service is shown with its judgement, addresses and the endpoints that serve it."""
        await enrol(store, "web-1", WEB)
        await record(store, "web-1", "10.0.0.1")
        await workload(store, "web-1")
        await service(store)
        await judge(store)
        answer = (await admin.get("/v1/services/default/web")).json()
        vips = answer.pop("vips")
        assert len(vips) == 2
        assert answer == {
            "namespace": "default",
            "name": "web",
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "tcp"}],
            "identities": [WEB],
            "accepted": True,
            "reasons": [],
            "endpoints": [
                {
                    "node": "web-1",
                    "workload": "default/web",
                    "address": "10.0.0.1",
                    "port": 8080,
                    "identity": WEB,
                    "health": "healthy",
                    "usable": True,
                    "why": "",
                }
            ],
            "kind": "Service",
            "hosts": [],
        }

    @pytest.mark.parametrize(
        ("spec", "enrolled", "why"),
        [
            ({"identity": API}, (API,), "not among the service's"),
            ({}, (), "not enrolled for its identity"),
            ({"ports": [9090]}, (WEB,), "does not offer port 8080"),
            ({"health": "unhealthy"}, (WEB,), "unhealthy"),
        ],
    )
    async def test_unusable(
        self,
        admin: httpx.AsyncClient,
        store: MemoryStore,
        spec: dict[str, Any],
        enrolled: tuple[str, ...],
        why: str,
    ) -> None:
        """An endpoint that gets no traffic is shown with the reason."""
        await enrol(store, "web-1", *enrolled)
        await record(store, "web-1", "10.0.0.1")
        await workload(store, "web-1", **spec)
        await service(store)
        (endpoint,) = (await admin.get("/v1/services/default/web")).json()["endpoints"]
        assert endpoint["usable"] is False
        assert why in endpoint["why"]

    async def test_no_record(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A workload on a node without a record cannot be reached."""
        await enrol(store, "web-1", WEB)
        await workload(store, "web-1")
        await service(store)
        (endpoint,) = (await admin.get("/v1/services/default/web")).json()["endpoints"]
        assert (endpoint["usable"], endpoint["address"]) == (False, "")
        assert "address is unknown" in endpoint["why"]

    async def test_selection(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Workloads of other labels or namespaces are not shown."""
        await record(store, "web-1", "10.0.0.1")
        await workload(store, "web-1")
        await service(store, selector={"app": "web", "tier": "front"})
        assert (await admin.get("/v1/services/default/web")).json()["endpoints"] == []

    async def test_not_judged(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Before the controller has spoken a service is not called accepted; after an edit that is said."""
        await service(store)
        answer = (await admin.get("/v1/services/default/web")).json()
        assert (answer["accepted"], answer["vips"]) == (False, [])
        assert "not judged it yet" in answer["reasons"][0]
        await judge(store)
        await service(store, ports=[{"port": 81}])
        answer = (await admin.get("/v1/services/default/web")).json()
        assert (answer["accepted"], len(answer["vips"])) == (True, 2)
        assert "newest edit" in answer["reasons"][0]

    async def test_rejected(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A service that does not parse is listed with the reason, once."""
        await store.put("services/default/bad", b"nonsense: [")
        await service(store)
        await judge(store)
        bad, good = (await admin.get("/v1/services")).json()["items"]
        assert (bad["name"], bad["accepted"], bad["ports"]) == ("bad", False, [])
        assert len(bad["reasons"]) == 1
        assert good["accepted"]

    async def test_damaged_status(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A damaged status is said to be damaged."""
        await service(store)
        await store.put("status/services/default/web", b"nonsense: [")
        answer = (await admin.get("/v1/services/default/web")).json()
        assert not answer["accepted"]
        assert "status/services/default/web" in answer["reasons"][0]

    async def test_namespace(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Services can be listed by namespace."""
        await service(store)
        both = [
            (await admin.get("/v1/services", params={"namespace": name})).json()["items"]
            for name in ("default", "other")
        ]
        assert [len(items) for items in both] == [1, 0]

    async def test_external(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Services outside the mesh come behind the others, with their hosts and virtual IPs."""
        spec = {"hosts": ["api.example.com"], "ports": [{"number": 443}]}
        document = {"apiVersion": "nodemesh/v1", "kind": "ExternalService", "metadata": {"name": "ext"}}
        await store.put("externalservices/default/ext", json.dumps({**document, "spec": spec}).encode())
        await store.put("externalservices/default/bad", b"nonsense: [")
        await service(store)
        await judge(store)
        web, bad, ext = (await admin.get("/v1/services")).json()["items"]
        assert (web["name"], bad["name"], bad["accepted"]) == ("web", "bad", False)
        assert (ext["hosts"], len(ext["vips"]), ext["accepted"]) == (["api.example.com"], 2, True)
        assert ext["ports"][0]["targetPort"] == 443
        assert (await admin.get("/v1/services/default/ext")).json() == ext
        assert (await admin.get("/v1/services/default/none")).status_code == 404

    async def test_missing(self, admin: httpx.AsyncClient) -> None:
        """A service that is not there is not found."""
        assert (await admin.get("/v1/services/default/web")).status_code == 404

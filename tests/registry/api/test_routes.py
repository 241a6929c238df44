"""Questions about routes, over what stands in the store."""

import json
from typing import Any

import httpx
import pytest

from registry.store.memory import MemoryStore
from tests.registry.api.test_nodes import WEB, enrol, record, resource, service, workload

Document = dict[str, Any]
PORTS = [
    {"port": 80, "targetPort": 8080, "protocol": "http"},
    {"port": 90, "targetPort": 9090, "protocol": "grpc"},
    {"port": 70, "protocol": "tcp"},
]
# Both services are in front of the same workloads.
IDENTITIES = ["default/web"]


def route(
    spec: Document, *, kind: str = "HTTPRoute", name: str = "r", namespace: str = "default"
) -> Document:
    return {
        "apiVersion": f"gateway.networking.k8s.io/{'v1alpha2' if kind == 'TCPRoute' else 'v1'}",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"parentRefs": [{"name": "web", "namespace": "default"}]} | spec,
    }


async def put(store: MemoryStore, document: Document) -> None:
    metadata = document["metadata"]
    plural = {"BackendPolicy": "backendpolicies"}.get(document["kind"], f"{document['kind'].lower()}s")
    key = f"{plural}/{metadata['namespace']}/{metadata['name']}"
    await store.put(key, json.dumps(document).encode())


CANARY = route(
    {
        "rules": [
            {
                "matches": [{"path": {"value": "/a"}, "headers": [{"name": "x-a", "value": "1"}]}],
                "backendRefs": [
                    {"name": "web", "port": 80, "weight": 90},
                    {"name": "canary", "port": 80, "weight": 10},
                ],
                "filters": [
                    {
                        "type": "URLRewrite",
                        "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}},
                    }
                ],
                "timeouts": {"request": "5s"},
                "retry": {"attempts": 2, "codes": [503]},
            }
        ]
    }
)


@pytest.fixture
async def store(store: MemoryStore) -> MemoryStore:
    """Give a store in which `web` has a workload on each of two nodes, one of them unhealthy."""
    for node, address, health in (("web-1", "10.0.0.1", "healthy"), ("web-2", "10.0.0.2", "unhealthy")):
        await enrol(store, node, WEB)
        await record(store, node, address)
        await workload(store, node, health=health)
    await service(store, ports=PORTS)
    await service(store, "canary", ports=PORTS[:1], identities=IDENTITIES)
    return store


async def explain(admin: httpx.AsyncClient, **asked: Any) -> Document:
    """Ask where a request to `web` goes, or what is given instead."""
    response = await admin.post("/v1/routes/explain", json={"to": "default/web:80"} | asked)
    assert response.status_code == 200, response.text
    answer: Document = response.json()
    return answer


class TestExplain:
    async def test_no_route(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Without a route a port leads to its own endpoints, of which each says whether it is usable."""
        answer = await explain(admin, path="/x/../y?q=1")
        assert (answer["status"], answer["matches"], answer["target"]) == (0, [], "/y?q=1")
        assert answer["because"] == "no route is attached, so that it leads to itself"
        (backend,) = answer["backends"]
        assert (backend["service"], backend["port"], backend["share"]) == ("default/web", 80, 1)
        assert (backend["balancing"], backend["policy"]) == ("PeakEwma", "")
        assert [
            (each["node"], each["port"], each["usable"], each["why"]) for each in backend["endpoints"]
        ] == [
            ("web-1", 8080, True, ""),
            ("web-2", 8080, False, "it is unhealthy"),
        ]

    async def test_rule(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """The rule, its backends with their shares, and what it does are told."""
        await put(store, CANARY)
        answer = await explain(admin, path="/a/x?q", headers={"X-A": "1"}, **{"from": "default/api"})
        assert answer["because"] == "rule 0 of the HTTPRoute default/r matches"
        assert [(each["service"], each["share"]) for each in answer["backends"]] == [
            ("default/web", 0.9),
            ("default/canary", 0.1),
        ]
        assert (answer["authority"], answer["target"]) == ("web", "/b/x?q")
        assert answer["does"] == [
            "replaces the prefix that matched by /b",
            "gives the request 5 s",
            "tries again up to 2 times, on 503 too",
        ]
        (match,) = answer["matches"]
        assert (match["chosen"], match["because"]) == (
            True,
            ["spec.rules[0].matches[0].path", "spec.rules[0].matches[0].headers[0]"],
        )

    async def test_no_rule_matches(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """With a route and no rule that matches the answer is 404, and what is in the way is told."""
        await put(store, CANARY)
        answer = await explain(admin, path="/a")
        assert (answer["status"], answer["backends"]) == (404, [])
        assert answer["matches"][0]["misses"] == [
            {"field": "spec.rules[0].matches[0].headers[0]", "wanted": "x-a=1", "found": "nothing"}
        ]

    async def test_policy(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """The oldest policy of a backend is in force there, and its way of balancing."""
        for name, how in (("b", "RoundRobin"), ("a", "Random")):
            spec = {
                "targetRefs": [{"kind": "Service", "name": "web"}],
                "loadBalancing": {"policy": how},
            }
            document = json.loads(resource("BackendPolicy", name, spec, namespace="default"))
            await put(store, document)
        (backend,) = (await explain(admin))["backends"]
        assert (backend["policy"], backend["balancing"]) == ("default/b", "RoundRobin")

    async def test_older_route(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Of two routes alike the one that was made first decides, though the other was edited first."""
        for name in ("z", "a"):
            await put(store, route({"rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}, name=name))
        await put(store, route({"rules": [{"backendRefs": [{"name": "canary", "port": 80}]}]}, name="z"))
        answer = await explain(admin)
        assert answer["because"] == "rule 0 of the HTTPRoute default/z matches"
        assert [each["chosen"] for each in answer["matches"]] == [True, False]

    async def test_redirect(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A redirect is told with where it leads."""
        redirect = {"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}
        await put(store, route({"rules": [{"filters": [redirect]}]}))
        answer = await explain(admin, path="/x", host="shop.example")
        assert (answer["status"], answer["location"]) == (301, "https://shop.example/x")

    async def test_preflight(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A preflight request is answered by the rule, which says whether it lets the origin in."""
        cors = {"type": "CORS", "cors": {"allowOrigins": ["https://a.example"]}}
        await put(
            store, route({"rules": [{"filters": [cors], "backendRefs": [{"name": "web", "port": 80}]}]})
        )
        said = []
        for origin in ("https://a.example", "https://b.example"):
            headers = {"origin": origin, "access-control-request-method": "PUT"}
            answer = await explain(admin, method="OPTIONS", headers=headers)
            said.append((answer["status"], answer["because"].rpartition("and ")[2]))
        assert said == [(204, "lets it be"), (204, "does not let it be")]

    async def test_unknown_backend(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A rule that leads to nothing the mesh has answers 500."""
        await put(store, route({"rules": [{"backendRefs": [{"name": "gone", "port": 80}]}]}))
        answer = await explain(admin)
        assert (answer["status"], answer["because"]) == (
            500,
            "rule 0 of the HTTPRoute default/r leads nowhere",
        )
        assert [(each["known"], each["endpoints"]) for each in answer["backends"]] == [(False, [])]

    async def test_callers(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A route of another namespace is asked for callers from there, and named to all others."""
        mine = route({"rules": [{"matches": [{"path": {"value": "/a"}}]}]}, namespace="shop")
        await put(store, mine)
        await put(store, CANARY)
        theirs = await explain(admin, path="/b", **{"from": "shop/till"})
        assert (theirs["status"], [each["route"] for each in theirs["matches"]]) == (404, ["shop/r"])
        assert theirs["remarks"] == ["the HTTPRoute default/r gives way to the routes of namespace shop"]
        others = await explain(admin, path="/b")
        assert [each["route"] for each in others["matches"]] == ["default/r"]
        assert others["remarks"] == ["the HTTPRoute shop/r is for callers of namespace shop alone"]

    async def test_tcp(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """On a tcp port the backends are a TCPRoute's, and it is said that requests are not read."""
        spec = {
            "rules": [
                {"backendRefs": [{"name": "web", "port": 80, "weight": 3}, {"name": "canary", "port": 80}]}
            ]
        }
        await put(store, route(spec, kind="TCPRoute"))
        answer = await explain(admin, to="default/web:70")
        assert [each["share"] for each in answer["backends"]] == [0.75, 0.25]
        assert "port 70 is tcp: its requests are not read" in answer["remarks"]

    async def test_edit_that_is_not_in_force(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """An edit that does not parse is named, and so is what a node has instead."""
        await store.put("httproutes/default/bad", b"{")
        rejected = [{"key": "httproutes/default/bad", "reason": "no", "lastGoodRevision": 7}]
        status = {"appliedRevision": 9, "rejected": rejected}
        await store.put("nodes/web-1/status", resource("NodeStatus", "web-1", status))
        assert (await explain(admin))["remarks"] == [
            "httproutes/default/bad: does not parse, and is left out here",
            "httproutes/default/bad: node web-1 rejects it, and has its revision 7 in force",
        ]

    async def test_candidates(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Candidates are asked as if they were stored, and are not."""
        assert (await explain(admin, path="/b", candidates=[CANARY]))["status"] == 404
        assert (await explain(admin, path="/b"))["status"] == 0

    async def test_the_only_port(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """The port may be left out where there is one only."""
        assert (await explain(admin, to="default/canary"))["port"] == 80


@pytest.mark.parametrize(
    ("asked", "status", "text"),
    [
        ({"to": "web"}, 422, "write namespace/name:port"),
        ({"to": "default/web"}, 422, "several ports: 80, 90, 70"),
        ({"to": "default/web:81"}, 404, "no port 81; it has 80, 90, 70"),
        ({"to": "default/gone:80"}, 404, "no service default/gone"),
        ({"path": "x"}, 422, "begin it with /"),
        ({"path": "/ä"}, 422, "escape what is not ASCII"),
        ({"from": "a/b/c"}, 422, "from"),
        ({"candidates": [{"kind": "HTTPRoute"}]}, 422, "candidate 1"),
    ],
)
async def test_refused(
    admin: httpx.AsyncClient, store: MemoryStore, asked: Document, status: int, text: str
) -> None:
    """A question that makes no sense is refused with what to write instead."""
    response = await admin.post("/v1/routes/explain", json={"to": "default/web:80"} | asked)
    assert response.status_code == status, response.text
    assert text in response.text


async def test_anyone(anyone: httpx.AsyncClient, store: MemoryStore) -> None:
    """Only administrators are answered."""
    assert (await anyone.post("/v1/routes/explain", json={"to": "default/web:80"})).status_code == 401

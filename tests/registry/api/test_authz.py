"""Questions about authorization, over what stands in the store."""

import json
from typing import Any

import httpx
import pytest

from registry.store.memory import MemoryStore
from tests.registry.api.test_nodes import API, WEB, enrol, record, resource, service, workload

ID = "0a1b2c3d-7"
ADDRESS = {"web-1": "10.0.0.1", "web-2": "10.0.0.2"}
NO_API = {
    "action": "DENY",
    "rules": [{"from": [{"source": {"principals": [API.removeprefix("spiffe://")]}}]}],
}
ONLY_API = {**NO_API, "action": "ALLOW"}
KEY = "authorizationpolicies/default/p"
Document = dict[str, Any]


def policy(spec: Document, name: str = "p", namespace: str = "default") -> Document:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


async def store_policy(store: MemoryStore, spec: Document, name: str = "p") -> int:
    key = f"authorizationpolicies/default/{name}"
    return await store.put(key, json.dumps(policy(spec, name)).encode())


@pytest.fixture
async def store(store: MemoryStore) -> MemoryStore:
    """Give a store in which the service `web` has a workload on each of two nodes."""
    for node, address in ADDRESS.items():
        await enrol(store, node, WEB)
        await record(store, node, address)
        await workload(store, node)
    await service(store)
    return store


async def check(admin: httpx.AsyncClient, **asked: Any) -> Document:
    """Ask whether `api` may call `web`, or what is given instead."""
    body = {"from": "default/api", "to": "default/web:80"} | asked
    response = await admin.post("/v1/authz/check", json=body)
    assert response.status_code == 200, response.text
    answer: Document = response.json()
    return answer


def outcomes(answer: Document) -> list[tuple[str, str, str]]:
    return [(each["node"], each["outcome"], each["policy"]) for each in answer["workloads"]]


async def status(store: MemoryStore, node: str, *rejected: tuple[str, int | None]) -> None:
    """Let a node say what it rejects, and which older version it holds."""
    spec = {
        "appliedRevision": 1,
        "rejected": [
            {"key": key, "reason": "no"} | ({} if revision is None else {"lastGoodRevision": revision})
            for key, revision in rejected
        ],
    }
    await store.put(f"nodes/{node}/status", resource("NodeStatus", node, spec))


def decided(*ids: str, outcome: str = "permitted", **more: Any) -> Document:
    return {
        "outcome": outcome,
        "reason": outcome,
        "source": API,
        "sourceIp": "10.0.0.9",
        "destination": "default/web",
        "port": 8080,
        "count": 3,
        "firstSeen": "2026-03-01T12:00:00Z",
        "lastSeen": "2026-03-01T12:00:05Z",
        "ids": ids,
    } | more


async def decisions(store: MemoryStore, node: str, *records: Document) -> None:
    value = resource("NodeDecisions", node, {"decisions": records})
    await store.put(f"nodes/{node}/decisions", value)


class TestCheck:
    async def test_default(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Without policies the mesh's default decides, for every workload behind the service."""
        answer = await check(admin)
        assert outcomes(answer) == [("web-1", "permitted", ""), ("web-2", "permitted", "")]
        assert (answer["source"], answer["service"]) == (API, "default/web")
        assert answer["workloads"][0]["identity"] == {
            "required": True,
            "authenticated": True,
            "policy": "",
            "path": "spec.mtlsMode",
        }

    async def test_denied(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A denial names the policy and its rule; a policy that does not match says what is in the way."""
        await store_policy(store, NO_API)
        await store_policy(store, ONLY_API, "q")
        (first, _) = (await check(admin))["workloads"]
        assert (first["outcome"], first["policy"], first["rule"]) == ("denied", "default/p", 0)
        assert [(each["policy"], each["matched"]) for each in first["policies"]] == [
            ("default/p", True),
            ("default/q", True),
        ]
        (other, _) = (await check(admin, **{"from": "default/other"}))["workloads"]
        assert (other["outcome"], other["policy"]) == ("denied", "default/q")
        (miss,) = other["policies"][0]["rules"][0]["misses"]
        assert miss["path"] == "spec.rules[0].from[0].source.principals"
        assert miss["values"] == [API.removeprefix("spiffe://")]
        assert miss["found"].endswith("/ns/default/sa/other")

    async def test_workload(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A workload's own port is a destination too."""
        answer = await check(admin, to="default/web:8080")
        assert (answer["service"], len(answer["workloads"])) == ("", 2)

    async def test_mesh_default(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """The mesh's settings decide where no policy does."""
        mesh = resource("Mesh", "mesh", {"trustDomain": "mesh.test", "defaultAuthorization": "deny"})
        await store.put("mesh", mesh)
        assert outcomes(await check(admin))[0] == ("web-1", "denied", "")

    async def test_nobody(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A caller without an identity is refused where one is required, and not where it is not."""
        (strict, _) = (await check(admin, **{"from": ""}))["workloads"]
        assert (strict["outcome"], strict["identity"]["authenticated"]) == ("denied", False)
        peers = {
            "apiVersion": "security.istio.io/v1",
            "kind": "PeerAuthentication",
            "metadata": {"name": "open"},
            "spec": {"mtls": {"mode": "PERMISSIVE"}},
        }
        await store.put("peerauthentications/default/open", json.dumps(peers).encode())
        (permissive, _) = (await check(admin, **{"from": ""}))["workloads"]
        assert permissive["outcome"] == "permitted"
        assert permissive["identity"]["policy"] == "default/open"

    async def test_source_ip(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """The address of the caller's host is part of the question."""
        await store_policy(
            store, {"action": "DENY", "rules": [{"from": [{"source": {"ipBlocks": ["10.9.0.0/16"]}}]}]}
        )
        assert outcomes(await check(admin, sourceIp="10.9.1.1"))[0][1] == "denied"
        assert outcomes(await check(admin, sourceIp="10.8.1.1"))[0][1] == "permitted"
        assert outcomes(await check(admin))[0][1] == "permitted"

    async def test_destination_ip(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Each workload is asked about with its own node's address."""
        when = [{"key": "destination.ip", "values": ["10.0.0.2"]}]
        await store_policy(store, {"action": "DENY", "rules": [{"when": when}]})
        assert [each[1] for each in outcomes(await check(admin))] == ["permitted", "denied"]

    async def test_candidate(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A candidate takes the place of what is stored under its name, and is not stored."""
        await store_policy(store, NO_API)
        allowed = await check(admin, candidates=[policy(ONLY_API)])
        assert outcomes(allowed)[0] == ("web-1", "permitted", "default/p")
        assert outcomes(await check(admin))[0] == ("web-1", "denied", "default/p")

    async def test_closed_namespace(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A policy that never parsed closes its namespace, until a candidate mends it."""
        await store.put(KEY, b"nonsense: [")
        assert outcomes(await check(admin)) == [
            ("web-1", "denied", "default/p"),
            ("web-2", "denied", "default/p"),
        ]
        assert outcomes(await check(admin, candidates=[policy(ONLY_API)]))[0][1] == "permitted"

    async def test_last_good_version(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Of an edit that does not parse each node is asked with what it says it still holds."""
        good = await store_policy(store, ONLY_API)
        await store.put(KEY, b"nonsense: [")
        await status(store, "web-1", (KEY, good))
        await status(store, "web-2", (KEY, None))
        first, second = (await check(admin))["workloads"]
        assert (first["outcome"], second["outcome"]) == ("permitted", "denied")
        assert (first["remarks"], second["remarks"]) == ([], [])

    async def test_edit_that_one_node_rejects(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """An edit that parses and that a node refuses, as one without its signature, does not hold there."""
        before = await store_policy(store, ONLY_API)
        await store_policy(store, NO_API)
        await status(store, "web-1", (KEY, before))
        assert [each[1] for each in outcomes(await check(admin))] == ["permitted", "denied"]

    async def test_policy_that_one_node_rejects(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A policy no version of which a node accepts closes its namespace there, until it is deleted."""
        await store_policy(store, ONLY_API)
        await status(store, "web-1", (KEY, None))
        assert [each[1] for each in outcomes(await check(admin))] == ["denied", "permitted"]
        await store.delete(KEY)
        assert [each[1] for each in outcomes(await check(admin))] == ["permitted", "permitted"]

    async def test_policy_in_force_with_a_complaint(
        self, admin: httpx.AsyncClient, store: MemoryStore
    ) -> None:
        """A policy that a node complains of and enforces is enforced."""
        revision = await store_policy(store, NO_API)
        await status(store, "web-1", (KEY, revision))
        assert [each[1] for each in outcomes(await check(admin))] == ["denied", "denied"]

    async def test_deleted_policy_with_a_complaint(
        self, admin: httpx.AsyncClient, store: MemoryStore
    ) -> None:
        """A policy that was deleted holds nowhere, though a node's last word was a complaint of it."""
        revision = await store_policy(store, NO_API)
        await status(store, "web-1", (KEY, revision))
        await store.delete(KEY)
        assert [each[1] for each in outcomes(await check(admin))] == ["permitted", "permitted"]

    async def test_last_good_version_that_is_gone(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """When a node holds a version that nobody knows any more, the answer says so."""
        good = await store_policy(store, NO_API)
        await store.put(KEY, b"nonsense: [")
        await status(store, "web-1", (KEY, good))
        store.compact(good + 1)
        (first, _) = (await check(admin))["workloads"]
        assert f"{KEY}: its revision {good} is in force here" in first["remarks"][0]

    async def test_workload_that_takes_no_traffic(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A permit of no use says why."""
        await workload(store, "web-1", identity=API)
        (first, _) = (await check(admin))["workloads"]
        assert "its identity is not among the service's" in first["remarks"][0]

    async def test_http_that_is_not_read(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Where proxies do not read requests, a question about one is answered as they would."""
        await store_policy(
            store, {"action": "ALLOW", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}
        )
        (first, _) = (await check(admin, method="GET", path="/x"))["workloads"]
        assert first["outcome"] == "denied"
        assert "method, path, host and headers decide nothing" in first["remarks"][0]

    async def test_nothing_behind(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A service without workloads has no answers."""
        await service(store, "empty", selector={"app": "none"})
        assert (await check(admin, to="default/empty:80"))["workloads"] == []

    @pytest.mark.parametrize(
        ("to", "said"),
        [
            ("default/web:81", "the service of that name has 80; the workload of that name has 8080"),
            ("default/none:80", "there is no service and no registered workload of that name"),
        ],
    )
    async def test_no_such_destination(
        self, admin: httpx.AsyncClient, store: MemoryStore, to: str, said: str
    ) -> None:
        """What is not there is not found, and the answer says what is."""
        response = await admin.post("/v1/authz/check", json={"from": "default/api", "to": to})
        assert response.status_code == 404
        assert said in response.json()["detail"]

    @pytest.mark.parametrize(
        "asked",
        [
            {"from": "api"},
            {"from": "Default/api"},
            {"from": "spiffe://x"},
            {"to": "default/web"},
            {"to": "web:80"},
            {"to": "default/web:0"},
            {"to": "default/WEB:80"},
            {"sourceIp": "ten"},
            {"candidates": [{"kind": "Workload"}]},
            {"candidates": [policy({"rules": [{"from": []}]})]},
            {"unknown": 1},
        ],
    )
    async def test_malformed(self, admin: httpx.AsyncClient, asked: Document) -> None:
        """A question that is not understood is refused, never answered in part."""
        body = {"from": "default/api", "to": "default/web:80"} | asked
        response = await admin.post("/v1/authz/check", json=body)
        assert (response.status_code, response.json()["title"]) == (422, "invalid resource")


async def explain(admin: httpx.AsyncClient, decision: str = ID) -> Document:
    """Ask about a decision that one node remembers."""
    (item,) = (await admin.get(f"/v1/authz/explain/{decision}")).json()["items"]
    answer: Document = item
    return answer


class TestExplain:
    async def test_same(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A recorded decision is shown, and what the present policies say."""
        await decisions(store, "web-1", decided("0a1b2c3d-6"), decided("0a1b2c3d-5", ID, port=1))
        await decisions(store, "web-2", decided("0a1b2c3d-8"))
        answer = await explain(admin, "0a1b2c3d-6")
        assert (answer["decision"]["source"], answer["decision"]["count"]) == (API, 3)
        assert (answer["now"]["node"], answer["now"]["outcome"], answer["differs"]) == (
            "web-1",
            "permitted",
            False,
        )

    async def test_different_now(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """When the policies have changed since, the answer says so."""
        await decisions(store, "web-2", decided(ID))
        await store_policy(store, NO_API)
        answer = await explain(admin)
        assert (answer["now"]["outcome"], answer["now"]["policy"], answer["differs"]) == (
            "denied",
            "default/p",
            True,
        )

    async def test_request_is_the_recorded_one(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """The same call is asked about: with its address, and by whoever made it."""
        block = {"action": "DENY", "rules": [{"from": [{"source": {"ipBlocks": ["10.0.0.9"]}}]}]}
        await store_policy(store, block)
        await decisions(
            store,
            "web-1",
            decided("0a1b2c3d-1"),
            decided("0a1b2c3d-2", sourceIp="10.0.0.8"),
            decided("0a1b2c3d-3", source="spiffe://mesh.test/node/web-2", sourceIp="10.0.0.8"),
        )
        found = [(await explain(admin, f"0a1b2c3d-{number}"))["now"] for number in (1, 2, 3)]
        assert [each["outcome"] for each in found] == ["denied", "permitted", "denied"]
        assert not found[2]["identity"]["authenticated"]

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"destination": "", "reason": "no_workload"}, "no policy was asked"),
            ({"destination": "default/gone"}, "default/gone is not registered at web-1"),
            ({"port": 9}, "default/web is not registered at web-1 with port 9 now"),
        ],
    )
    async def test_cannot_be_asked_again(
        self, admin: httpx.AsyncClient, store: MemoryStore, changes: Document, said: str
    ) -> None:
        """A decision about what is not there is shown, with the reason why it cannot be replayed."""
        await decisions(store, "web-1", decided(ID, outcome="denied", **changes))
        answer = await explain(admin)
        assert (answer["now"], answer["differs"]) == (None, False)
        assert said in answer["whyNot"]

    async def test_two_claims(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A node that claims another's decision does not hide it."""
        await decisions(store, "web-1", decided("a", ID, source=WEB))
        await decisions(store, "web-2", decided(ID, outcome="denied"))
        items = (await admin.get(f"/v1/authz/explain/{ID}")).json()["items"]
        assert [(each["decision"]["node"], each["decision"]["source"]) for each in items] == [
            ("web-1", WEB),
            ("web-2", API),
        ]

    async def test_forgotten(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A decision that no node remembers is not found; what a node writes wrongly hides no other's."""
        await store.put("nodes/web-1/decisions", b"nonsense")
        await decisions(store, "web-2", decided(ID))
        assert (await admin.get(f"/v1/authz/explain/{ID}")).status_code == 200
        response = await admin.get("/v1/authz/explain/0a1b2c3d-8")
        assert response.status_code == 404
        assert "no node remembers" in response.json()["detail"]


class TestDiff:
    async def diff(self, admin: httpx.AsyncClient, *candidates: Document) -> Document:
        """Ask what would change."""
        response = await admin.post("/v1/authz/diff", json={"candidates": candidates})
        assert response.status_code == 200, response.text
        answer: Document = response.json()
        return answer

    async def test_permit_to_deny(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A call that would be refused is listed with how often it was made; others are not."""
        await decisions(store, "web-1", decided("a"), decided("b", source=WEB))
        answer = await self.diff(admin, policy(NO_API))
        (change,) = answer["changes"]
        assert (change["source"], change["destination"], change["count"]) == (API, "default/web", 3)
        assert change["before"]["outcome"] == "permitted"
        assert (change["after"]["outcome"], change["after"]["policy"]) == ("denied", "default/p")
        assert (answer["replayed"], answer["skipped"]) == (2, 0)

    async def test_deny_to_permit(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A call that would be let in is listed too."""
        await store_policy(store, NO_API)
        await decisions(store, "web-1", decided("a", outcome="denied"))
        (change,) = (await self.diff(admin, policy(ONLY_API)))["changes"]
        assert (change["before"]["outcome"], change["after"]["outcome"]) == ("denied", "permitted")

    async def test_edits_meanwhile_are_not_the_candidates_doing(
        self, admin: httpx.AsyncClient, store: MemoryStore
    ) -> None:
        """A call that is answered otherwise already is no change; its records are one call."""
        await decisions(store, "web-1", decided("a"), decided("b", outcome="denied", count=4))
        await store_policy(store, NO_API)
        assert (await self.diff(admin, policy(NO_API)))["changes"] == []
        (change,) = (await self.diff(admin, policy(ONLY_API)))["changes"]
        assert change["count"] == 7

    async def test_requests(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Recorded requests are asked again too, each sort of them once."""
        asked = {"method": "GET", "path": "/", "host": "web"}
        await decisions(store, "web-1", decided("a", request=asked), decided("b", request=asked))
        answer = await self.diff(admin, policy(NO_API))
        assert (answer["replayed"], [each["count"] for each in answer["changes"]]) == (1, [6])

    async def test_worst_first(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Calls that would be refused stand before those let in, the most frequent first."""
        await store_policy(store, ONLY_API)
        other = f"{API}-2"
        await decisions(
            store,
            "web-1",
            decided("a", source=WEB, outcome="denied", count=100),
            decided("b"),
            decided("c", sourceIp="10.0.0.8", count=50),
            decided("d", source=other, outcome="denied"),
        )
        changes = (await self.diff(admin, policy(NO_API)))["changes"]
        assert [(each["after"]["outcome"], each["count"]) for each in changes] == [
            ("denied", 50),
            ("denied", 3),
            ("permitted", 100),
            ("permitted", 3),
        ]

    async def test_what_cannot_be_asked(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """Calls to what is gone are counted as skipped."""
        await decisions(store, "web-1", decided("a", destination="default/gone"), decided("b", source="x"))
        answer = await self.diff(admin, policy(NO_API))
        assert (answer["replayed"], answer["skipped"], answer["changes"]) == (0, 2, [])

    async def test_nothing_given(self, admin: httpx.AsyncClient) -> None:
        """Without a candidate there is nothing to compare with."""
        assert (await admin.post("/v1/authz/diff", json={"candidates": []})).status_code == 422


class TestLint:
    async def lint(self, admin: httpx.AsyncClient, *candidates: Document) -> list[tuple[str, str, str]]:
        """Ask for findings; gives policy, check and severity of each."""
        response = await admin.post("/v1/authz/lint", json={"candidates": candidates})
        assert response.status_code == 200, response.text
        return [(each["policy"], each["check"], each["severity"]) for each in response.json()["findings"]]

    def names(self, account: str) -> Document:
        """Give a policy's spec that names a caller."""
        principal = f"{WEB.removeprefix('spiffe://').removesuffix('/web')}/{account}"
        return {"action": "ALLOW", "rules": [{"from": [{"source": {"principals": [principal]}}]}]}

    async def test_stored(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """What is stored is looked at with all that is known of nodes, services and accounts."""
        await enrol(store, "web-1", WEB, f"{API}-2")
        await store_policy(store, self.names("nobody"), "unknown")
        await store_policy(store, self.names("api-2"), "enrolled")
        await store_policy(store, self.names("web"), "served")
        assert {each[:2] for each in await self.lint(admin)} == {("default/unknown", "unknown-reference")}

    async def test_candidates(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """With candidates only what is about them, or comes from them, is said."""
        await store_policy(store, self.names("nobody"), "unknown")
        assert await self.lint(admin, policy(self.names("web"), "fine")) == []
        found = await self.lint(admin, policy(self.names("somebody"), "new"))
        assert {each[0] for each in found} == {"default/new"}

    async def test_of_the_candidates_making(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A stored policy that a candidate makes pointless is named."""
        await store_policy(store, self.names("web"), "stored")
        everybody = policy({"action": "DENY", "rules": [{}]}, "all")
        assert "default/stored" in {each[0] for each in await self.lint(admin, everybody)}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/authz/check"),
        ("GET", "/v1/authz/explain/x"),
        ("POST", "/v1/authz/diff"),
        ("POST", "/v1/authz/lint"),
    ],
)
async def test_administrators_only(anyone: httpx.AsyncClient, method: str, path: str) -> None:
    """Who may call whom is told to administrators alone."""
    assert (await anyone.request(method, path, json={})).status_code == 401

"""What the controller finds right and wrong, as values in and writes out."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.model.parse import parse_as
from registry.model.status import Status, StatusSpec
from registry.statuses import concerns, next_release, plan
from registry.store.base import Delete, KeyValue, Put, Write

TRUST_DOMAIN = "mesh.test"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def service(name: str = "web", **spec: Any) -> bytes:
    return _resource("Service", name, "default", {"ports": [{"port": 80}], "selector": {"app": name}} | spec)


def external(name: str = "web", namespace: str = "default", **spec: Any) -> bytes:
    spec = {"hosts": ["api.example.com"], "ports": [{"number": 443}]} | spec
    return _resource("ExternalService", name, namespace, spec)


def mesh(**spec: Any) -> bytes:
    return _resource("Mesh", "mesh", "nodemesh-system", {"trustDomain": TRUST_DOMAIN} | spec)


def _resource(kind: str, name: str, namespace: str, spec: dict[str, Any]) -> bytes:
    metadata = {"name": name, "namespace": namespace}
    return json.dumps(
        {"apiVersion": "nodemesh/v1", "kind": kind, "metadata": metadata, "spec": spec}
    ).encode()


class World:
    """A store's content, edited and planned over by hand."""

    def __init__(self, **values: bytes) -> None:
        self.state: dict[str, KeyValue] = {}
        self.revision = 1
        self.now = NOON

    def put(self, key: str, value: bytes) -> None:
        """Write one key."""
        self.revision += 1
        self.state[key] = KeyValue(key, value, self.revision, self.revision)

    def settle(self) -> list[Write]:
        """Do what the plan says; give what was done."""
        writes = plan(self.state, trust_domain=TRUST_DOMAIN, now=self.now)
        for write in writes:
            match write:
                case Put(key, value):
                    self.put(key, value)
                case Delete(key):
                    del self.state[key]
        return writes

    def status(self, key: str) -> StatusSpec:
        """Read a resource's status."""
        item = self.state[f"status/{key}"]
        return parse_as(Status, item.value, where=item.key).spec


def world(values: Mapping[str, bytes] = {}) -> World:
    made = World()
    for key, value in values.items():
        made.put(key, value)
    made.settle()
    return made


def keys_of(writes: Iterable[Write]) -> list[str]:
    return sorted(write.key for write in writes)


def test_accepted() -> None:
    """A good service is accepted at its revision, with an address of each family."""
    made = world({"services/default/web": service()})
    status = made.status("services/default/web")
    assert (status.accepted, status.reasons) == (True, ())
    assert status.revision == made.state["services/default/web"].revision
    assert len(status.vips) == 2


def test_settled() -> None:
    """What is judged already is not written again."""
    made = world({"services/default/web": service(), "mesh": mesh()})
    assert made.settle() == []


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("services/default/web", b"{", "not valid JSON"),
        ("services/default/web", service(typo=1), "typo"),
        ("services/default/web", service("api"), "services/default/api"),
        ("services/default/web", mesh(), "mesh"),
        ("services/default/web", service(identities=["spiffe://other.test/ns/a/sa/b"]), "other.test"),
        ("authorizationpolicies/default/p", service(), "services/default/web"),
        ("mesh", mesh(trustDomain="other.test"), "write mesh.test"),
        ("mesh", mesh(vipRanges=["nonsense"]), "vipRanges"),
    ],
)
def test_rejected(key: str, value: bytes, reason: str) -> None:
    """What does not parse, is not where it belongs or contradicts the mesh is rejected with the reason."""
    made = world({key: value})
    place = "mesh/nodemesh-system/mesh" if key == "mesh" else key
    status = made.status(place)
    assert not status.accepted
    assert reason in status.reasons[0]
    assert status.vips == ()


@pytest.mark.parametrize(
    ("scope", "selected"),
    [
        ({}, True),
        ({"selector": {"matchLabels": {"app": "web"}}}, True),
        ({"selector": {"matchLabels": {"app": "web", "version": "2"}}}, False),
        ({"selector": {"matchLabels": {"app": "other"}}}, False),
        ({"targetRefs": [{"kind": "Service", "name": "web"}]}, True),
        ({"targetRefs": [{"kind": "Service", "name": "other"}]}, False),
    ],
    ids=["namespace", "selector", "narrower", "other", "target", "other-target"],
)
@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_conditions_on_unread_http(scope: dict[str, Any], selected: bool, protocol: str) -> None:
    """A policy about requests that surely selects a port whose HTTP no proxy reads is rejected by name."""
    rules = [{}, {"to": [{"operation": {"methods": ["GET"]}}]}]
    policy = _resource("AuthorizationPolicy", "p", "default", {"rules": rules} | scope)
    ports = [{"port": 80, "targetPort": 8080, "protocol": protocol}]
    made = world({"services/default/web": service(ports=ports), "authorizationpolicies/default/p": policy})
    status = made.status("authorizationpolicies/default/p")
    assert status.accepted is not selected
    if selected:
        (reason,) = status.reasons
        assert reason.startswith("spec.rules[1].to[0].operation.methods: needs HTTP, and port 8080 of ")
        assert f"the service default/web is {protocol}" in reason


def test_yaml() -> None:
    """People write YAML with etcdctl."""
    made = world()
    text = b"apiVersion: nodemesh/v1\nkind: Service\nmetadata: {name: web}\n"
    made.put("services/default/web", text + b"spec: {ports: [{port: 80}], selector: {app: web}}\n")
    made.settle()
    assert made.status("services/default/web").accepted


def test_addresses_survive_edits() -> None:
    """A service keeps its addresses through edits, good ones and bad ones."""
    made = world({"services/default/web": service()})
    before = made.status("services/default/web").vips
    for value in (service(ports=[{"port": 81}]), b"nonsense: [", service()):
        made.put("services/default/web", value)
        assert keys_of(made.settle()) == ["status/services/default/web"]
        assert made.status("services/default/web").vips == before


@pytest.mark.parametrize("key", ["services/default/web", "externalservices/default/web"])
def test_deleted(key: str) -> None:
    """With the service goes its status, once its addresses have been held back for an hour."""
    made = world({key: service() if key.startswith("services") else external()})
    del made.state[key]
    assert keys_of(made.settle()) == [f"status/{key}"]
    assert not made.status(key).accepted
    assert "held back" in made.status(key).reasons[0]
    made.now += HOUR - timedelta(seconds=1)
    assert made.settle() == []
    assert next_release(made.state, trust_domain=TRUST_DOMAIN, now=made.now) == NOON + HOUR
    made.now += timedelta(seconds=1)
    assert made.settle() == [Delete(f"status/{key}")]
    assert next_release(made.state, trust_domain=TRUST_DOMAIN, now=made.now) is None


def test_deleted_by_mistake() -> None:
    """A service that is there again within the hour has its addresses again."""
    made = world({"services/default/web": service()})
    before = made.status("services/default/web").vips
    del made.state["services/default/web"]
    made.settle()
    made.put("services/default/web", service())
    made.settle()
    status = made.status("services/default/web")
    assert (status.accepted, status.vips, status.released_at) == (True, before, None)


def test_held_back() -> None:
    """Addresses that are held back are given to nobody else, and who goes without is told why."""
    settings = mesh(vipRanges=["10.9.0.0/24"], vipHoldDown=60)
    made = world({"mesh": settings, **{f"services/default/s{n:03}": service(f"s{n:03}") for n in range(254)}})
    freed = made.status("services/default/s007").vips
    del made.state["services/default/s007"]
    made.settle()
    made.put("services/default/new", service("new"))
    made.settle()
    waiting = made.status("services/default/new")
    assert waiting.vips == ()
    assert "10.9.0.0/24 of the mesh's vipRanges is used up (1 deleted services" in waiting.reasons[0]
    made.now += timedelta(seconds=60)
    made.settle()
    made.settle()
    assert made.status("services/default/new").vips == freed


def test_clock_that_was_wrong() -> None:
    """A release in the future counts from now: a clock that was ahead does not hold addresses for ever."""
    made = world({"services/default/web": service()})
    del made.state["services/default/web"]
    made.now = NOON + 1000 * HOUR
    made.settle()
    made.now = NOON
    made.settle()
    assert made.status("services/default/web").released_at == "2026-03-01T12:00:00Z"


def test_rejected_without_addresses() -> None:
    """The status of what never had an address goes with it."""
    made = world({"services/default/web": b"nonsense: ["})
    del made.state["services/default/web"]
    assert made.settle() == [Delete("status/services/default/web")]


def test_kinds_share_the_ranges() -> None:
    """A service and an external service of one name have addresses of their own."""
    made = world({"services/default/web": service(), "externalservices/default/web": external()})
    both = (*made.status("services/default/web").vips, *made.status("externalservices/default/web").vips)
    assert len(set(both)) == 4


def test_one_host_twice() -> None:
    """Of two external services that name one host the second by name is rejected, and keeps its address."""
    made = world({"externalservices/a/x": external("x", "a"), "externalservices/b/y": external("y", "b")})
    assert made.status("externalservices/a/x").accepted
    status = made.status("externalservices/b/y")
    assert (status.accepted, len(status.vips)) == (False, 2)
    assert "api.example.com leads to a/x already" in status.reasons[0]


def test_bad_mesh_moves_nothing() -> None:
    """While the settings are rejected addresses stay, and new services wait and say so."""
    made = world({"mesh": mesh(vipRanges=["10.9.0.0/24"]), "services/default/web": service()})
    before = made.status("services/default/web").vips
    made.put("mesh", b"nonsense: [")
    made.put("services/default/api", service("api"))
    made.settle()
    assert made.status("services/default/web").vips == before
    waiting = made.status("services/default/api")
    assert (waiting.accepted, waiting.vips) == (True, ())
    assert "settings are rejected" in waiting.reasons[0]
    made.put("mesh", mesh(vipRanges=["10.9.0.0/24"]))
    made.settle()
    assert len(made.status("services/default/api").vips) == 1
    assert made.status("services/default/api").reasons == ()


def test_used_up_range() -> None:
    """A service for which no address is left is accepted and says what it lacks."""
    made = world({"mesh": mesh(vipRanges=["10.9.0.0/24"])})
    for number in range(255):
        made.put(f"services/default/s{number:03}", service(f"s{number:03}"))
    made.settle()
    last = made.status("services/default/s254")
    assert (last.accepted, last.vips) == (True, ())
    assert "used up" in last.reasons[0]


def test_no_ranges() -> None:
    """A mesh without ranges gives no addresses, and that is nothing to complain of."""
    made = world({"mesh": mesh(vipRanges=[]), "services/default/web": service()})
    assert made.status("services/default/web") == StatusSpec(
        revision=made.state["services/default/web"].revision, accepted=True
    )


def test_damaged_status() -> None:
    """A status that somebody damaged is written anew."""
    made = world({"services/default/web": service()})
    before = made.status("services/default/web")
    made.put("status/services/default/web", b"nonsense: [")
    made.settle()
    assert made.status("services/default/web") == before


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "mesh",
                "services/default/b",
                "services/default/c",
                "authorizationpolicies/a/b",
                "status/services/default/b",
            ]
        ),
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([service("b"), service("c"), mesh()]),
            st.text(alphabet="{}[]:,-&*!|>'\"% \nabc1", max_size=40).map(str.encode),
        ),
    )
)
def test_whatever_stands_there(values: dict[str, bytes]) -> None:
    """No value, however broken, keeps the controller from judging the others."""
    made = world(values)
    assert made.settle() == []
    judged = [key for key in values if not key.startswith("status/")]
    assert len([key for key in made.state if key.startswith("status/")]) == len(judged)


def test_keys_of_others() -> None:
    """Keys that no operator writes, and statuses of kinds unknown here, are left alone."""
    made = world(
        {
            "nodes/web-1/record": b"nonsense: [",
            "services/Default/web": service(),
            "services/default": service(),
            "tlsroutes/default/r": b"{}",
            "status/tlsroutes/default/r": b"{}",
        }
    )
    assert made.settle() == []
    assert not concerns("nodes/web-1/record")
    assert not concerns("status/tlsroutes/default/r")
    assert concerns("mesh")

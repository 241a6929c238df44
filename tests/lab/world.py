"""The mesh of the authorization cases, built for real: who calls on one host, who is called on another.

Callers are told apart by their users. A third host has joined and runs no proxy: whoever has its key may say
what they like.
"""

import contextlib
import http.client
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from registry.cli.authz_answers import VerdictView
from registry.cli.client import RegistryClient, connect
from registry.cli.config import Overrides, load_settings
from registry.model.identity import NodeIdentity, WorkloadIdentity
from registry.model.mesh import Mesh as MeshSettings
from registry.model.mesh import MeshSpec
from registry.model.parse import from_builtins, render
from registry.model.peer_authentication import MtlsMode
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.store import keys
from tests.lab.topology import TCP_SERVICE
from tests.registry.rules.cases import Case, read_world
from tests.support.mesh import PREFIX, Mesh, Node
from tests.support.namespaces import Fabric, within
from tests.support.owned import OwnedClient
from tests.support.plans import ListenerPlan, NodePlan, WorkloadPlan
from tests.support.processes import wait_until

WORLD = read_world()
CALLING, CALLED, ROGUE = "calling", "called", "rogue"
# Explicit listeners of the calling host; each leads to the database, for one of its workloads alone.
LISTENERS = {"web": 6001, "api": 6002}
CALLED_ADDRESS, ROGUE_ADDRESS = "10.77.0.2", "10.77.0.3"
DATABASE = ("default/db", 5432)
REFUSED = ""

PERMISSIVE = MeshSpec(mtls_mode=MtlsMode.PERMISSIVE)

_USERS = {name: 4242 + number for number, name in enumerate(WORLD.callers)}
# What the callers themselves serve, which nobody calls.
_OWN_PORTS = {name: 8001 + number for number, name in enumerate(WORLD.callers)}
_DEADLINE = 10.0


class Judged(NamedTuple):
    """What the destination's proxy logged of a call."""

    source: str
    destination: str
    port: int
    verdict: str
    policy: str


@dataclass(frozen=True)
class Stage:
    """The mesh at work, a process for each caller, and the virtual addresses of what is called."""

    mesh: Mesh
    calling: Node
    called: Node
    rogue: Node
    registry: RegistryClient
    clients: Mapping[str, OwnedClient]
    virtual: Mapping[str, str]

    def call(
        self,
        caller: str,
        to: str,
        port: int,
        *,
        listener: str = "",
        source: tuple[str, int] | None = None,
    ) -> str:
        """Call, through the virtual address or a listener; give who answered, `REFUSED` when nobody did."""
        client = self.clients[caller]
        target = ("127.0.0.1", LISTENERS[listener]) if listener else (self.virtual[to], port)
        try:
            client.connect(*target, source=source)
            client.do("send", "name\n")
            answer = str(client.do("receive")).strip()
        except ConnectionError:
            return REFUSED
        client.do("reset")
        return answer

    def play(self, cases: Sequence[Case]) -> list[str]:
        """Make the calls, all callers at once; give who answered each."""
        answers = [REFUSED] * len(cases)

        def play_one(caller: str) -> None:
            for number, case in enumerate(cases):
                if case.caller == caller:
                    answers[number] = self.call(caller, case.to, case.port)

        with ThreadPoolExecutor() as pool:
            list(pool.map(play_one, {case.caller for case in cases}))
        return answers

    def enforce(self, documents: Sequence[dict[str, object]], settings: MeshSpec) -> None:
        """Put policies and settings in force at both proxies, in place of those that were."""
        puts = {key_of(document): json.dumps(document) for document in documents}
        held = [
            key
            for kind in ("authorizationpolicies/", "peerauthentications/")
            for key in self.mesh.etcdctl("get", "--prefix", "--keys-only", PREFIX + kind).split()
        ]
        if puts or held:
            self.mesh.commit(puts, set(held) - puts.keys())
        # Written after the rest: a node that enforces it has been told of all that came before.
        mesh = MeshSettings(
            api_version=NODEMESH,
            kind=MeshSettings.KIND,
            metadata=Metadata(name="mesh", namespace=ROOT_NAMESPACE),
            spec=settings,
        )
        self.wait_enforced(self.mesh.put(f"{PREFIX}mesh", render(mesh).decode()))

    def wait_enforced(self, revision: int) -> None:
        """Wait until both proxies enforce the store as of `revision`."""
        for node in (self.calling, self.called):
            wait_until(
                lambda node=node: in_force(node)["appliedRevision"] >= revision,  # type: ignore[misc]
                what=f"revision {revision} at {node.name}",
                deadline=_DEADLINE,
            )

    def judged(self, since: int) -> Counter[Judged]:
        """Read what the destination's proxy logged after its first `since` records."""
        found: Counter[Judged] = Counter()
        for record in list(self.called.running_proxy.records())[since:]:
            match record:
                case {"event": "stream refused", "side": "destination"}:
                    verdict = (
                        "deny" if record["status"] == http.HTTPStatus.FORBIDDEN else str(record["reason"])
                    )
                case {"event": "connection closed", "side": "inbound"}:
                    verdict = "allow"
                case _:
                    continue
            said = (record["source"], record["destination"], record["port"], verdict, record["policy"])
            found[Judged(*said)] += 1
        return found

    def wait_judged(self, since: int, count: int) -> Counter[Judged]:
        """Wait until the destination's proxy has logged so many calls; give them."""

        def enough() -> Counter[Judged]:
            found = self.judged(since)
            return found if found.total() >= count else Counter()

        return wait_until(enough, what=f"{count} calls in the destination's log", deadline=_DEADLINE)

    def records(self) -> int:
        """Count what the destination's proxy has logged so far."""
        return len(list(self.called.running_proxy.records()))

    def check(self, case: Case) -> VerdictView:
        """Ask the registry about a call, as `meshctl authz check` does."""
        caller = WORLD.callers[case.caller]
        with within(self.mesh.control):
            found = self.registry.authz_check(
                {
                    "from": caller.identity or "",
                    "to": f"{case.to}:{case.port}",
                    "sourceIp": caller.address,
                }
            )
        (verdict,) = found.workloads
        return verdict


def spoken_identity(caller: str) -> str:
    """Give the identity that a caller's connections prove: that of its host for one of no workload."""
    identity = WORLD.callers[caller].identity
    if identity is None:
        return str(NodeIdentity(WORLD.trust_domain, CALLING))
    return str(WorkloadIdentity.from_short(identity, WORLD.trust_domain))


def key_of(document: dict[str, object]) -> str:
    """Say where in etcd a document belongs."""
    return PREFIX + keys.render(keys.key_of(from_builtins(document, where="case")))


def in_force(node: Node) -> dict[str, Any]:
    """Read what a node's proxy says is in force."""
    host, _, port = node.plan.admin.rpartition(":")
    with within(node.host):
        connection = http.client.HTTPConnection(host, int(port), timeout=_DEADLINE)
        with contextlib.closing(connection):
            connection.request("GET", "/config")
            return dict(json.loads(connection.getresponse().read()))


@contextlib.contextmanager
def open_stage() -> Iterator[Stage]:
    """Set everything up, and wait until every destination answers."""
    with contextlib.ExitStack() as stack:
        fabric = stack.enter_context(Fabric([CALLING, CALLED, ROGUE]))
        mesh = stack.enter_context(Mesh(fabric.switch))
        mesh.start_etcd()
        mesh.start_registry()
        mesh.meshctl("apply", "-f", "-", text=yaml.safe_dump_all(_services()))
        calling, called, rogue = mesh.add_nodes(_plans(fabric))
        mesh.start_proxies([calling, called])
        _start_destinations(mesh, called)
        settings = load_settings(Overrides(config=mesh.meshctl_config), environ={}, home=Path("/"))
        registry = RegistryClient(stack.enter_context(connect(settings)))
        clients = {
            name: stack.enter_context(OwnedClient(uid=uid, prefix=calling.host.prefix))
            for name, uid in _USERS.items()
        }
        stage = Stage(mesh, calling, called, rogue, registry, clients, _wait_addresses(mesh, registry))
        stage.enforce((), MeshSpec())
        for name, destination in WORLD.destinations.items():
            for port in destination.ports:
                wait_until(
                    lambda name=name, port=port: stage.call("web", name, port),  # type: ignore[misc]
                    what=f"{name}:{port} to answer",
                    deadline=2 * _DEADLINE,
                )
        yield stage


def _start_destinations(mesh: Mesh, called: Node) -> None:
    started = [
        mesh.processes.start_module(
            f"{name.replace('/', '.')}.{port}",
            called.host.prefix,
            TCP_SERVICE,
            *("--name", f"{name}:{port}", "--port", str(port)),
        )
        for name, destination in WORLD.destinations.items()
        for port in destination.ports
    ]
    for process in started:
        process.wait_log("serving")


def _wait_addresses(mesh: Mesh, registry: RegistryClient) -> dict[str, str]:
    """Wait until every service has an endpoint; give the virtual IPv4 address of each destination's first."""

    def ready() -> dict[str, str]:
        with within(mesh.control):
            found = {f"{each.namespace}/{each.name}": each for each in registry.list_services(None)}
        if not all(each.usable and each.vips for each in found.values()):
            return {}
        return {
            name: next(address for address in found[destination.services[0]].vips if ":" not in address)
            for name, destination in WORLD.destinations.items()
        }

    return wait_until(ready, what="an endpoint of every service", deadline=3 * _DEADLINE, pause=0.1)


def _services() -> list[dict[str, object]]:
    return [
        {
            "apiVersion": NODEMESH,
            "kind": "Service",
            "metadata": dict(zip(("namespace", "name"), service.split("/"), strict=True)),
            "spec": {
                "selector": {"app": destination.labels["app"]},
                "ports": [{"name": f"p{port}", "port": port} for port in destination.ports],
                "identities": [name],
            },
        }
        for name, destination in WORLD.destinations.items()
        for service in destination.services
    ]


def _plans(fabric: Fabric) -> list[NodePlan]:
    callers = {name: _caller(name, each.identity) for name, each in WORLD.callers.items() if each.identity}
    called = tuple(
        WorkloadPlan(
            namespace=name.partition("/")[0],
            name=name.partition("/")[2],
            port=destination.ports[0],
            more_ports=destination.ports[1:],
            labels=destination.labels,
        )
        for name, destination in WORLD.destinations.items()
    )
    # Of the account that serves nothing.
    stranger = WorkloadPlan(name=ROGUE, port=DATABASE[1], health="none")
    listeners = tuple(
        ListenerPlan(
            address=f"127.0.0.1:{port}",
            service=DATABASE[0],
            port=DATABASE[1],
            workload=callers[name].qualified,
        )
        for name, port in LISTENERS.items()
    )
    return [
        NodePlan(
            name=CALLING,
            host=fabric.hosts[CALLING],
            # It declares its user, so that nobody else is given its name.
            speaks_for=callers["web"],
            workloads=tuple(callers.values()),
            listeners=listeners,
        ),
        NodePlan(name=CALLED, host=fabric.hosts[CALLED], speaks_for=called[0], workloads=called),
        NodePlan(name=ROGUE, host=fabric.hosts[ROGUE], speaks_for=stranger, workloads=(stranger,)),
    ]


def _caller(name: str, identity: str) -> WorkloadPlan:
    namespace, _, account = identity.partition("/")
    return WorkloadPlan(
        namespace=namespace,
        name=account,
        port=_OWN_PORTS[name],
        health="none",
        labels={"app": "caller"},
        uid=_USERS[name],
    )

"""Authorization cases as data: what is in force, who calls what, and what must come of it.

Each file holds scenarios: `mesh` (its settings; callers need no identity unless it says so), `resources` and
`cases`. A case names a caller and a destination of ``world.yaml``, the port, the verdict, and the policy that
decides (`by`, empty for the mesh's settings) with its `rule`. `sourceIp`, `remoteIp`, `sni` and `as` (a whole
SPIFFE ID in place of the caller's) stand for what the world does not have; such cases say `lab: false`, since
no two real hosts can make them. `http` is a request whose HTTP is read; such cases are played through two
proxies by ``tests/integration/test_http_authorization.py``.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import yaml

from registry.model.authorization import AuthorizationPolicy
from registry.model.identity import Identity, WorkloadIdentity, parse_identity
from registry.model.mesh import MeshSpec
from registry.model.parse import from_builtins
from registry.model.peer_authentication import MtlsMode, PeerAuthentication
from registry.rules import AuthRequest, HttpRequest, WorkloadPolicies, compile_policies

FOLDER = Path(__file__).parent
WORLD = FOLDER / "world.yaml"


class _Data(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    pass


class Caller(_Data, frozen=True, kw_only=True):
    """Somebody who calls: ``namespace/account``, or None for a process of no workload."""

    identity: str | None
    address: str


class Destination(_Data, frozen=True, kw_only=True):
    """A workload that is called."""

    labels: dict[str, str]
    ports: tuple[int, ...]
    services: tuple[str, ...]
    address: str


class World(_Data, frozen=True, kw_only=True):
    """The mesh of the cases."""

    trust_domain: str
    callers: dict[str, Caller]
    destinations: dict[str, Destination]


class Http(_Data, frozen=True, kw_only=True):
    """A request."""

    method: str
    path: str
    host: str = "api"
    headers: dict[str, str] = {}


class Case(_Data, frozen=True, kw_only=True):
    """One call and what must come of it."""

    caller: str = msgspec.field(name="from")
    to: str
    port: int
    verdict: str
    by: str
    rule: int | None = None
    audited: tuple[str, ...] | None = None
    http: Http | None = None
    source_ip: str | None = None
    remote_ip: str | None = None
    sni: str | None = None
    as_: str | None = msgspec.field(default=None, name="as")
    lab: bool = True


class Scenario(_Data, frozen=True, kw_only=True):
    """What is in force, and the calls that are made."""

    name: str
    resources: tuple[dict[str, object], ...]
    cases: tuple[Case, ...]
    mesh: dict[str, str] = {}

    def documents(self) -> list[dict[str, object]]:
        """Give the resources as an operator would write them."""
        return [{"apiVersion": "security.istio.io/v1", **resource} for resource in self.resources]

    def settings(self) -> MeshSpec:
        """Give the mesh's settings."""
        return msgspec.convert({"mtlsMode": MtlsMode.PERMISSIVE.value} | self.mesh, MeshSpec)

    def replayable(self) -> list[Case]:
        """Give the cases that two real hosts can play over ports of TCP."""
        return [case for case in self.cases if case.lab and case.http is None]


def read_world() -> World:
    """Give the mesh of the cases."""
    return msgspec.convert(yaml.safe_load(WORLD.read_bytes()), World)


def read_scenarios() -> Iterator[tuple[str, Scenario]]:
    """Give every scenario, with the name of its file."""
    for path in sorted(FOLDER.glob("*.yaml")):
        if path != WORLD:
            for scenario in msgspec.convert(yaml.safe_load(path.read_bytes()), list[Scenario]):
                yield path.stem, scenario


def compile_for(scenario: Scenario, case: Case, world: World) -> WorkloadPolicies:
    """Make ready what guards the case's destination."""
    resources = [from_builtins(document, where=scenario.name) for document in scenario.documents()]
    settings = scenario.settings()
    destination = world.destinations[case.to]
    return compile_policies(
        [each for each in resources if isinstance(each, AuthorizationPolicy)],
        trust_domain=world.trust_domain,
        peers=[each for each in resources if isinstance(each, PeerAuthentication)],
        namespace=case.to.partition("/")[0],
        labels=destination.labels,
        services=destination.services,
        default=settings.default_authorization,
        mode=settings.mtls_mode,
    )


def request_of(case: Case, world: World) -> AuthRequest:
    """Give the case's call as the destination's proxy sees it."""
    caller = world.callers[case.caller]
    source: Identity | None = None
    if case.as_ is not None:
        source = parse_identity(case.as_)
    elif caller.identity is not None:
        source = WorkloadIdentity.from_short(caller.identity, world.trust_domain)
    return AuthRequest(
        source,
        case.port,
        source_ip=case.source_ip or caller.address,
        remote_ip=case.remote_ip,
        destination_ip=world.destinations[case.to].address,
        sni=case.sni,
        http=None
        if case.http is None
        else HttpRequest(case.http.method, case.http.path, case.http.host, case.http.headers),
    )

"""The routing cases that are data, with real requests through both proxies."""

import http.client
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest

from node_proxy.snapshot import ServicePortView, ServiceView, Snapshot
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.resource import Resource
from registry.model.service import PortProtocol
from registry.model.tcp_route import TCPRoute
from tests.integration.certificates import Authority, spiffe
from tests.integration.http_workloads import Answering, Asked, run_http
from tests.integration.snapshots import endpoint, local, snapshot
from tests.integration.worker import Worker, stopping
from tests.integration.workloads import PATIENCE
from tests.registry.rules.routing.cases import Case, Scenario, port_of, read_scenarios, read_world
from tests.registry.rules.routing.outcome import Outcome, assert_outcome, assert_shares

API = spiffe("api")
# A share that is off by eight points after so many draws is no chance: four standard deviations.
DRAWS = 600
WITHIN = 0.08


def _is_http(case: Case) -> bool:
    """Whether a case is about plain HTTP from end to end; gRPC has clients of its own."""
    service, port = case.called
    plain = case.grpc is None and _speaks_http(service, port)
    return plain and case.replayable and not (case.backend and not _speaks_http(*port_of(case.backend)))


def _speaks_http(service: str, port: int) -> bool:
    return read_world()[service][port] is PortProtocol.HTTP


SCENARIOS = [(file, scenario) for file, scenario in read_scenarios() if any(map(_is_http, scenario.cases))]


class World:
    """Every port of every service of the cases, each with a workload that tells what it is asked."""

    def __init__(self, stack: ExitStack, authority: Authority) -> None:
        cases = [case for _, scenario in SCENARIOS for case in scenario.cases if _is_http(case)]
        callers = sorted({case.from_ for case in cases})
        called = sorted({case.called for case in cases})
        self._identities = {caller: _identity(caller) for caller in callers}
        self._workloads = {
            (service, port): stack.enter_context(run_http(f"{service}:{port}", self._answer(service, port)))
            for service, ports in read_world().items()
            for port in ports
            if _speaks_http(service, port)
        }
        self.answered: dict[str, str] = {}
        self.reached: list[str] = []
        calls = [(*each, identity) for each in called for identity in self._identities.values()]
        self._near = Worker("near", "127.0.0.2", calls=calls)
        self._far = Worker("far", "127.0.0.3")
        stack.enter_context(stopping(self._near, self._far))
        self._revision = 1
        ports = (each.port for each in self._workloads.values())
        api = local("api", *ports, protocol=PortProtocol.HTTP)
        self._far.start(
            snapshot(self._far, workloads=(api,)),
            [authority.issue(API)],
            authority.root_pem,
        )
        leaves = [authority.issue(identity) for identity in self._identities.values()]
        self._near.start(self._state(()), leaves, authority.root_pem)

    def lead(self, scenario: Scenario) -> None:
        """Put a scenario's routes in force."""
        self._revision += 1
        self._near.give_snapshot(self._state(tuple(scenario.resources())))

    def ask(self, case: Case) -> Outcome:
        """Make a case's request; gives what came of it."""
        method, authority, target, fields = case.request
        self.answered, self.reached = case.answered, []
        port = self._near.entries[(*case.called, self._identities[case.from_])]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.putrequest(method.decode(), target.decode(), skip_host=True, skip_accept_encoding=True)
        for name, value in [(b"host", authority), *fields]:
            connection.putheader(name.decode(), value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
        connection.close()
        answer = [(name.lower().encode(), value.encode()) for name, value in response.getheaders()]
        if response.status != 200 or not body.startswith(b"{"):
            return Outcome(response.status, answer=answer)
        told = json.loads(body)
        seen = [(name.encode(), value.encode()) for name, value in told["fields"] if name != "host"]
        return Outcome(
            200,
            told["by"],
            None,
            dict(told["fields"])["host"].encode(),
            told["target"].encode(),
            seen,
            answer,
        )

    def _answer(self, service: str, port: int) -> Answering:
        def answer(asked: Asked) -> tuple[int, list[tuple[str, str]], bytes]:
            told = {"by": f"{service}:{port}", "target": asked.target, "fields": asked.fields}
            return 200, list(self.answered.items()), json.dumps(told).encode()

        return answer

    def _view(self, service: str, port: int, protocol: PortProtocol) -> ServicePortView:
        workload = self._workloads.get((service, port))
        at = (self._far.address, self._far.tunnel_port)
        endpoints = (endpoint("far", *at, workload.port, identity=API),) if workload else ()
        return ServicePortView(port=port, protocol=protocol, endpoints=endpoints)

    def _state(self, routes: tuple[tuple[Resource, int], ...]) -> Snapshot:
        views = tuple(
            ServiceView(
                name=service,
                vips=(),
                ports=tuple(self._view(service, port, protocol) for port, protocol in ports.items()),
            )
            for service, ports in read_world().items()
        )
        return msgspec.structs.replace(
            snapshot(self._near, revision=self._revision, services=views, workloads=(local("web"),)),
            http_routes=tuple((each, at) for each, at in routes if isinstance(each, HTTPRoute)),
            grpc_routes=tuple((each, at) for each, at in routes if isinstance(each, GRPCRoute)),
            tcp_routes=tuple((each, at) for each, at in routes if isinstance(each, TCPRoute)),
        )


def _identity(caller: str) -> str:
    namespace, _, account = caller.partition("/")
    return spiffe(account, namespace=namespace)


@pytest.fixture(scope="module")
def world(authority: Authority) -> Iterator[World]:
    """Run the services."""
    with ExitStack() as stack:
        yield World(stack, authority)


@pytest.mark.parametrize(
    "scenario", [pytest.param(scenario, id=f"{file}: {scenario.name}") for file, scenario in SCENARIOS]
)
def test_scenario(world: World, scenario: Scenario) -> None:
    """Every request reaches what its case says, in the shape it says, or gets the answer it says."""
    world.lead(scenario)
    for case in filter(_is_http, scenario.cases):
        if case.shares is not None:
            outcomes = [world.ask(case) for _ in range(DRAWS)]
            reached = Counter(each.backend or str(each.status) for each in outcomes)
            assert_shares(reached, case.shares, draws=DRAWS, within=WITHIN)
        else:
            assert_outcome(case, world.ask(case))


def test_there_are_enough() -> None:
    """At least eighty requests are made."""
    assert sum(_is_http(case) for _, scenario in SCENARIOS for case in scenario.cases) >= 80

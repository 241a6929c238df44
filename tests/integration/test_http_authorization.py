"""Rules about requests through two real proxies: the cases that are data, and attempts to get around them."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from node_proxy.dataplane.reason import parse_reason
from registry.model.authorization import AuthorizationPolicy
from registry.model.mesh import DefaultAuthorization
from registry.model.parse import from_builtins
from registry.model.service import PortProtocol
from tests.integration.certificates import Authority
from tests.integration.pair import Pair, run_pair
from tests.integration.workloads import CHUNK, Workload, run_workload
from tests.registry.rules.cases import Case, Scenario, read_scenarios
from tests.registry.rules.policies import policy, targets

NO_ADMIN = policy("no-admin", targets({"paths": ["/admin", "/admin/*"]}), action="DENY")
# Who calls, and on which port, are the same for all of these calls.
CALLER, DESTINATION, PORT = "web", "default/api", 8080


class Told:
    """A workload that keeps the heads that reached it."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []

    def __call__(self, connection: socket.socket) -> None:
        """Answer requests without a body."""
        pending = b""
        while data := connection.recv(CHUNK):
            pending += data
            while b"\r\n\r\n" in pending:
                head, _, pending = pending.partition(b"\r\n\r\n")
                self.heads.append(head)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


@dataclass
class Stage:
    """Two proxies, and a workload of HTTP behind the far one."""

    pair: Pair
    told: Told
    workload: Workload

    def ask(self, request: bytes) -> tuple[int, str]:
        """Send a request on a connection of its own; gives the status, and the policy that refused it."""
        with self.pair.call("api") as connection:
            connection.sendall(request)
            answer = b""
            while b"\r\n\r\n" not in answer and (data := connection.recv(CHUNK)):
                answer += data
        lines = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")
        said = dict(line.split(": ", 1) for line in lines[1:])
        return int(lines[0].split()[1]), parse_reason(said.get("nodemesh-reason", "")).policy

    def get(
        self, target: bytes, *fields: bytes, method: bytes = b"GET", host: bytes = b"api"
    ) -> tuple[int, str]:
        """Send a request without a body."""
        lines = (b"%s %s HTTP/1.1" % (method, target), b"host: %s" % host, *fields, b"", b"")
        return self.ask(b"\r\n".join(lines))


@pytest.fixture(scope="module")
def stage(authority: Authority) -> Iterator[Stage]:
    """Run two proxies."""
    told = Told()
    with (
        run_workload(told) as workload,
        run_pair(authority, {"api": [workload.port]}, protocol=PortProtocol.HTTP) as pair,
    ):
        yield Stage(pair, told, workload)


def _asked(scenario: Scenario) -> list[Case]:
    """Give the cases that this stage can play: its one caller asks its one workload."""
    return [
        case
        for case in scenario.cases
        if case.http is not None
        and (case.caller, case.to, case.port) == (CALLER, DESTINATION, PORT)
        and case.as_ is None
        and case.source_ip is None
        and case.remote_ip is None
        and case.sni is None
        # What is no method, or no target of a request line, is refused before any rule is asked.
        and case.http.method.isupper()
        and "\\" not in case.http.path
    ]


SCENARIOS = [
    pytest.param(scenario, id=scenario.name)
    for _, scenario in read_scenarios()
    if _asked(scenario) and "ports" not in str(scenario.resources)
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_cases(stage: Stage, scenario: Scenario) -> None:
    """Each request is answered, or refused by the policy that its case names."""
    resources = [from_builtins(document, where=scenario.name) for document in scenario.documents()]
    stage.pair.enforce(
        *(each for each in resources if isinstance(each, AuthorizationPolicy)),
        default=scenario.settings().default_authorization,
    )
    expected, found = [], []
    for case in _asked(scenario):
        assert case.http is not None
        fields = [f"{name}: {value}".encode() for name, value in case.http.headers.items()]
        status, by = stage.get(
            case.http.path.encode(),
            *fields,
            method=case.http.method.encode(),
            host=case.http.host.encode(),
        )
        found.append((case.http, status, by))
        denied = case.verdict == "deny"
        expected.append((case.http, 403 if denied else 200, (case.by or "mesh-default") if denied else ""))
    assert found == expected


@pytest.mark.parametrize(
    "target",
    [
        b"/admin",
        b"//admin",
        b"/x/%2e%2E/admin",
        b"/%61dmin",
        b"/x%2f..%2Fadmin",
        b"/x%5C..%5Cadmin",
        b"/x/..;/admin",
        b"/x/..;a=b/admin",
        b"http://api/x/../admin",
        b"HTTP://API/admin?x=/y",
        b"/pub/x%2F..%2F..%2Fadmin%2Fy%5C..%5C..%5Cpub",
    ],
)
def test_spellings(stage: Stage, target: bytes) -> None:
    """However a path is written, both proxies read it as one, and the workload sees nothing of it."""
    stage.pair.enforce(NO_ADMIN)
    before = len(stage.told.heads)
    assert stage.get(target) == (403, "default/no-admin")
    assert len(stage.told.heads) == before


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (b"/a/../b%2fc?d=%2f..", b"GET /b%2Fc?d=%2f.. HTTP/1.1"),
        (b"//a/%2e/b;x=1", b"GET /a/b;x=1 HTTP/1.1"),
        (b"http://api/x?y", b"GET /x?y HTTP/1.1"),
        (b"/x%252Fy", b"GET /x%252Fy HTTP/1.1"),
    ],
)
def test_what_arrives(stage: Stage, target: bytes, line: bytes) -> None:
    """The workload sees the path that was judged, and the query as it came."""
    stage.pair.enforce()
    assert stage.get(target)[0] == 200
    assert stage.told.heads[-1].partition(b"\r\n")[0] == line


SMUGGLED = {
    "two lengths": b"POST /x HTTP/1.1\r\nhost: api\r\ncontent-length: 5\r\ncontent-length: 50\r\n\r\nhello",
    "length and chunks": b"POST /x HTTP/1.1\r\nhost: api\r\ncontent-length: 4\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nhost: api\r\n\r\n",
    "an encoding that is none": b"POST /x HTTP/1.1\r\nhost: api\r\n"
    b"transfer-encoding: chunked, identity\r\n\r\n",
    "a folded line": b"GET /x HTTP/1.1\r\nhost: api\r\na: b\r\n\ttransfer-encoding: chunked\r\n\r\n",
    "a bare LF": b"GET /x HTTP/1.1\r\nhost: api\nx: y\r\n\r\n",
    "a space before the colon": b"GET /x HTTP/1.1\r\nhost : api\r\n\r\n",
    "two hosts": b"GET /x HTTP/1.1\r\nhost: api\r\nhost: admin\r\n\r\n",
    "two words about the host": b"GET http://admin/x HTTP/1.1\r\nhost: api\r\n\r\n",
    "no host": b"GET /x HTTP/1.1\r\n\r\n",
    "a line break in the target": b"GET /x\x0b/admin HTTP/1.1\r\nhost: api\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_smuggling(stage: Stage, name: str) -> None:
    """What could be read as two different requests is refused, and nothing of it reaches the workload."""
    stage.pair.enforce(NO_ADMIN)
    before = len(stage.told.heads)
    assert stage.ask(SMUGGLED[name])[0] == 400
    assert len(stage.told.heads) == before


def test_a_request_within_a_body(stage: Stage) -> None:
    """What is a body to the caller's proxy is a body to the destination's, and no request."""
    stage.pair.enforce(NO_ADMIN)
    inner = b"GET /admin HTTP/1.1\r\nhost: api\r\n\r\n"
    request = b"PUT /x HTTP/1.1\r\nhost: api\r\ncontent-length: %d\r\n\r\n%s" % (len(inner), inner)
    status, _ = stage.ask(request)
    assert status == 200


@pytest.mark.parametrize(
    "field",
    [
        b"nodemesh-caller: spiffe://nodemesh.local/ns/default/sa/admin",
        b"Nodemesh_Caller: spiffe://nodemesh.local/ns/default/sa/admin",
        b"x-forwarded-for: 192.0.2.7",
        b"forwarded: for=192.0.2.7",
        b"nodemesh-route: default/other",
        b"connection: nodemesh-caller, host",
    ],
)
def test_what_callers_may_not_say(stage: Stage, field: bytes) -> None:
    """Callers say nothing in the mesh's name, nor whom they call for."""
    stage.pair.enforce()
    assert stage.get(b"/", field)[0] in (200, 400)
    arrived = stage.told.heads[-1]
    assert b"sa/admin" not in arrived
    assert b"192.0.2.7" not in arrived
    assert b"default/other" not in arrived


def test_an_edit_between_two_requests(stage: Stage) -> None:
    """On one connection the second request is judged by the policy that came after the first."""
    stage.pair.enforce()
    request = b"GET /admin HTTP/1.1\r\nhost: api\r\n\r\n"
    with stage.pair.call("api") as connection:
        connection.sendall(request)
        assert connection.recv(CHUNK).startswith(b"HTTP/1.1 200 ")
        stage.pair.enforce(NO_ADMIN, default=DefaultAuthorization.ALLOW)
        connection.sendall(request)
        assert connection.recv(CHUNK).startswith(b"HTTP/1.1 403 ")

"""What a service's policy lets through, from caller to workload through two workers."""

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import msgspec
import pytest

from node_proxy.snapshot import Snapshot
from registry.model.service import PortProtocol
from registry.rules.limits.keys import mesh_name
from tests.integration.certificates import Authority
from tests.integration.pair import SERVICE_PORT, WEB, Pair, run_pair
from tests.integration.snapshots import local, snapshot
from tests.integration.workloads import is_closed, read_exactly, run_workload, source
from tests.node_proxy.dataplane.test_limiter import policy

LENGTH = 1_500_000
RATE = 1_000_000


class Answering(BaseHTTPRequestHandler):
    """Answers every GET with a few bytes, and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Limited:
    """A pair of workers, and limits that a test puts in force on the far one."""

    def __init__(self, pair: Pair, port: int, protocol: PortProtocol) -> None:
        self.pair = pair
        self._port = port
        self._protocol = protocol
        self._revisions = itertools.count(100)

    def limit(self, **spec: object) -> None:
        """Put a policy in force."""
        far = self.pair.far
        workload = local("api", self._port, protocol=self._protocol)
        state: Snapshot = snapshot(
            far,
            revision=next(self._revisions),
            workloads=(msgspec.structs.replace(workload, services=("default/api",)),),
        )
        far.give_snapshot(msgspec.structs.replace(state, backend_policies=(policy("api", **spec),)))

    def client(self) -> httpx.Client:
        """Give an HTTP client of the near host."""
        port = self.pair.near.ports[f"default/api:{SERVICE_PORT}"]
        return httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20)


@pytest.fixture(scope="module")
def web(authority: Authority) -> Iterator[Limited]:
    """Run a web server behind a pair of workers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    port: int = server.server_address[1]
    serving = Thread(target=server.serve_forever)
    serving.start()
    try:
        with run_pair(authority, {"api": [port]}, protocol=PortProtocol.HTTP) as pair:
            yield Limited(pair, port, PortProtocol.HTTP)
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


@pytest.fixture(scope="module")
def plain(authority: Authority) -> Iterator[Limited]:
    """Run a workload that sends much behind a pair of workers."""
    with ExitStack() as stack:
        port = stack.enter_context(run_workload(source(LENGTH))).port
        pair = stack.enter_context(run_pair(authority, {"api": [port]}))
        yield Limited(pair, port, PortProtocol.TCP)


def test_requests(web: Limited) -> None:
    """What is over the limit gets 429, with when to come again; it keeps its connection, and is counted."""
    web.limit(rateLimits=[{"name": "all", "requests": 3, "per": "1h"}])
    with web.client() as client:
        answers = [client.get("/") for _ in range(5)]
    assert [each.status_code for each in answers] == [200, 200, 200, 429, 429]
    assert answers[0].headers["ratelimit-limit"] == "3"
    assert [each.headers["ratelimit-remaining"] for each in answers] == ["2", "1", "0", "0", "0"]
    assert 1100 <= int(answers[3].headers["retry-after"]) <= 1200
    assert answers[3].headers["nodemesh-reason"].startswith("rate_limited")
    report = web.pair.far.wait_report()
    limited = {each.labels: each.value for each in report.samples if "rate_limited" in each.name}
    assert limited == {(("kind", "requests"), ("limit", "all"), ("service", "default/api")): 2}


def test_calls_of_grpc(web: Limited) -> None:
    """A call of gRPC over the limit ends with RESOURCE_EXHAUSTED, as such calls do."""
    web.limit(rateLimits=[{"name": "none", "requests": 1, "per": "1h"}])
    with web.client() as client:
        client.get("/")
        answer = client.post("/a.B/C", headers={"content-type": "application/grpc"})
    assert (answer.status_code, answer.headers["grpc-status"]) == (200, "8")


def test_callers(web: Limited) -> None:
    """A limit by caller counts the identity that TLS has proven, whatever the request says."""
    web.limit(rateLimits=[{"name": "each", "requests": 2, "per": "1h", "key": {"type": "Caller"}}])
    said = [{"nodemesh-caller": f"spiffe://nodemesh.local/ns/default/sa/{name}"} for name in "abcd"]
    with web.client() as client:
        assert [client.get("/", headers=each).status_code for each in said] == [200, 200, 429, 429]


def test_shared_limit(web: Limited) -> None:
    """A node lets through its share, and tells how much it was asked for."""
    web.pair.far.give_quotas({"default/api/shared": 0.5})
    web.limit(rateLimits=[{"name": "shared", "requests": 8, "per": "1h", "scope": "Mesh"}])
    with web.client() as client:
        codes = [client.get("/").status_code for _ in range(10)]
    assert codes.count(200) == 4
    web.pair.far.wait_demand(mesh_name("default/api/shared", ""), 10)


def test_connections(plain: Limited) -> None:
    """A connection too many is closed, and both hosts say why."""
    plain.limit(connectionRates=[{"connections": 2, "per": "1h"}])
    with ExitStack() as stack:
        for _ in range(2):
            assert read_exactly(stack.enter_context(plain.pair.call("api")), 10)
        assert is_closed(stack.enter_context(plain.pair.call("api")))
    far = plain.pair.far.wait_log("stream refused", reason="rate_limited", source=WEB)
    near = plain.pair.near.wait_log("stream refused", side="source")
    assert "429" in near["detail"]
    assert far["id"] in near["detail"]


def test_bandwidth(plain: Limited) -> None:
    """A download takes the time that its limit gives it, and comes evenly."""
    plain.limit(bandwidths=[{"download": RATE}])
    moments = []
    with plain.pair.call("api") as connection:
        began = time.monotonic()
        for _ in range(LENGTH // 10_000):
            read_exactly(connection, 10_000)
            moments.append(time.monotonic() - began)
    # The rate, and the twentieth of a second that may come at once.
    for count, moment in enumerate(moments, start=1):
        assert count * 10_000 <= RATE * (moment + 0.06)
    assert moments[-1] < 3 * LENGTH / RATE

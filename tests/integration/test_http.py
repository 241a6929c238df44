"""Requests through both proxies, between real clients and real services."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import websockets.sync.client
import websockets.sync.server

from registry.model.backend_policy import Abort, Fault, OutlierEjection, Retries, RetryReason
from registry.model.backend_policy import BackendTimeouts as PolicyTimeouts
from registry.model.http_route import HTTPBackendRef, HTTPRouteMatch, HTTPRouteRule, PathMatch, Retry
from registry.model.service import PortProtocol
from tests.integration.certificates import Authority
from tests.integration.http_workloads import Answering, Asked, Load, client, run_http, tell
from tests.integration.pair import SERVICE_PORT, Pair, run_pair
from tests.integration.snapshots import backend_policy, http_route
from tests.integration.workloads import Workload, echo, read_exactly, read_to_end, refusing_port, run_workload

CROWD = 4
SLOW = 5.0


def backend(name: str, weight: int = 1) -> HTTPBackendRef:
    """Give a backend of a route."""
    return HTTPBackendRef(name=name, port=SERVICE_PORT, weight=weight)


@contextmanager
def run_api(authority: Authority, answer: Answering | None = None) -> Iterator[tuple[Pair, Workload]]:
    """Run one service of one workload, `api`."""
    with (
        run_http("api", answer) as workload,
        run_pair(authority, {"api": [workload.port]}, protocol=PortProtocol.HTTP) as pair,
    ):
        yield pair, workload


def port_of(pair: Pair, name: str = "api") -> int:
    """Give the port that leads to a service."""
    return pair.near.ports[f"default/{name}:{SERVICE_PORT}"]


@pytest.fixture(scope="module")
def versions(authority: Authority) -> Iterator[Pair]:
    """Run two versions of a service behind a name each; `api` itself is the first."""
    with run_http("v1") as v1, run_http("v2") as v2:
        services = {"api": [v1.port], "v1": [v1.port], "v2": [v2.port]}
        with run_pair(authority, services, protocol=PortProtocol.HTTP) as pair:
            yield pair


class TestPassing:
    def test_many_requests_on_one_connection(self, versions: Pair) -> None:
        """A caller's connection is kept, and every request of it is answered by itself."""
        with client(port_of(versions)) as web:
            for number in range(20):
                answered = web.get(f"/{number}?x=%2F")
                assert (answered.status, answered.told["target"]) == (200, f"/{number}?x=%2F")

    def test_what_the_workload_hears(self, versions: Pair) -> None:
        """The workload hears who calls from the mesh alone, whatever the caller says of itself."""
        said = {
            "x-forwarded-for": "1.2.3.4",
            "nodemesh-caller": "spiffe://x/y",
            "Connection": "x-hop",
            "x-hop": "1",
        }
        with client(port_of(versions)) as web:
            fields = web.ask("GET", "/", fields=said).told["fields"]
        assert fields["nodemesh-caller"] == "spiffe://nodemesh.local/ns/default/sa/web"
        assert fields["x-forwarded-for"] != "1.2.3.4"
        assert "x-hop" not in fields

    @pytest.mark.parametrize("length", [0, 1, 70_000, 5_000_000])
    def test_bodies(self, versions: Pair, length: int) -> None:
        """Bodies of any length arrive whole."""
        with client(port_of(versions)) as web:
            for _ in range(2):
                assert web.ask("POST", "/", body=b"x" * length).told["length"] == length

    def test_chunked(self, versions: Pair) -> None:
        """A body of unknown length arrives whole."""
        with socket.create_connection(("127.0.0.1", port_of(versions)), timeout=10) as caller:
            caller.sendall(
                b"POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
                b"3\r\nabc\r\n"
            )
            time.sleep(0.05)
            caller.sendall(b"4\r\ndefg\r\n0\r\n\r\n")
            answer = read_to_end(caller)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"length": 7' in answer

    @pytest.mark.parametrize("version", ["--http1.1", "--http1.0", "--http2-prior-knowledge", "--http2"])
    def test_curl(self, versions: Pair, version: str) -> None:
        """Curl is answered in each version of HTTP; `Upgrade: h2c` is not taken up."""
        done = subprocess.run(
            ["curl", "-sS", "-i", version, "-d", "hello", f"http://127.0.0.1:{port_of(versions)}/x"],
            capture_output=True,
            timeout=20,
            check=True,
        )
        assert b'"length": 5' in done.stdout
        assert b" 200" in done.stdout.split(b"\r\n")[0]

    def test_smuggling(self, versions: Pair) -> None:
        """What two readers might read differently is refused, and nothing of it reaches the workload."""
        with socket.create_connection(("127.0.0.1", port_of(versions)), timeout=10) as caller:
            caller.sendall(
                b"POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
                b"0\r\n\r\nGET /evil HTTP/1.1\r\nhost: api\r\n\r\n"
            )
            answer = read_to_end(caller)
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.count(b"HTTP/1.1") == 1

    def test_connections_are_kept_upstream(self, authority: Authority) -> None:
        """Requests of many connections share few connections to the workload."""
        with run_api(authority) as (pair, workload):
            for _ in range(20):
                with client(port_of(pair)) as web:
                    assert web.get().status == 200
            assert workload.accepted < 4

    def test_websocket(self, authority: Authority) -> None:
        """A WebSocket works as if there were no proxies."""

        def repeat(connection: websockets.sync.server.ServerConnection) -> None:
            for message in connection:
                connection.send(message)

        with websockets.sync.server.serve(repeat, "127.0.0.1", 0) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            port = server.socket.getsockname()[1]
            with (
                run_pair(authority, {"api": [port]}, protocol=PortProtocol.HTTP) as pair,
                websockets.sync.client.connect(f"ws://127.0.0.1:{port_of(pair)}/chat") as caller,
            ):
                for text in ("a", "b" * 200_000):
                    caller.send(text)
                    assert caller.recv(10) == text
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def auto(authority: Authority) -> Iterator[Pair]:
    """Run services whose ports do not say what they speak."""
    with run_http("web") as web, run_workload(echo) as plain, run_workload(_greet) as greeting:
        services = {"web": [web.port], "plain": [plain.port], "greeting": [greeting.port]}
        with run_pair(authority, services, protocol=PortProtocol.AUTO) as pair:
            yield pair


def _greet(connection: socket.socket) -> None:
    connection.sendall(b"hello")
    read_to_end(connection)


class TestAuto:
    def test_http(self, auto: Pair) -> None:
        """HTTP is found, and read: the workload hears who calls."""
        with client(port_of(auto, "web")) as web:
            assert "nodemesh-caller" in web.get().told["fields"]

    @pytest.mark.parametrize("data", [b"\x00\x01binary", b"GET me a beer\r\n", b"G"])
    def test_other_bytes(self, auto: Pair, data: bytes) -> None:
        """Anything else is carried as it is."""
        with auto.call("plain") as caller:
            caller.sendall(data)
            assert read_exactly(caller, len(data)) == data

    def test_server_that_speaks_first(self, auto: Pair) -> None:
        """A caller that waits for a greeting gets it, a moment later."""
        with auto.call("greeting") as caller:
            assert read_exactly(caller, 5) == b"hello"


class TestRoutes:
    def test_path(self, versions: Pair) -> None:
        """A route by path holds at once, and so does its end."""
        to_v2 = HTTPRouteRule(
            matches=(HTTPRouteMatch(path=PathMatch(value="/new")),), backend_refs=(backend("v2"),)
        )
        versions.lead(http_route(to_v2))
        with client(port_of(versions)) as web:
            assert web.get("/new/x").told["by"] == "v2"
            assert web.get("/newer").status == 404
            versions.lead()
            assert web.get("/new/x").told["by"] == "v1"

    def test_canary(self, versions: Pair) -> None:
        """90/10, then 0/100, by edits under load: the shares follow, and no request fails."""
        load = Load(port_of(versions), callers=CROWD)
        try:
            versions.lead(http_route(HTTPRouteRule(backend_refs=(backend("v1", 90), backend("v2", 10)))))
            before = len(load.by)
            load.wait(500)
            share = load.by[before:].count("v2") / len(load.by[before:])
            versions.lead(http_route(HTTPRouteRule(backend_refs=(backend("v1", 0), backend("v2", 100)))))
            load.wait(2 * CROWD)
            after = len(load.by)
            load.wait(100)
        finally:
            load.stop()
            versions.lead()
        assert (load.failures, set(load.statuses)) == ([], {200})
        assert 0.05 < share < 0.16
        assert set(load.by[after:]) == {"v2"}

    def test_service_that_is_gone(self, versions: Pair) -> None:
        """What leads to a service that was withdrawn is refused, on open connections too."""
        with client(port_of(versions)) as web:
            assert web.get().status == 200
            versions.lead(without=("default/api",))
            answered = web.get()
            versions.lead()
            assert (answered.status, answered.fields["nodemesh-reason"]) == (404, "no_route")
            assert web.get().status == 200


class TestResilience:
    def test_endpoint_that_is_gone(self, authority: Authority) -> None:
        """One of two endpoints refuses connections: no request fails."""
        with run_http("api") as workload, refusing_port() as dead:
            services = {"api": [workload.port, dead]}
            with (
                run_pair(authority, services, protocol=PortProtocol.HTTP) as pair,
                client(port_of(pair)) as web,
            ):
                assert {web.ask("POST", "/").status for _ in range(30)} == {200}

    def test_endpoint_that_dies_under_load(self, authority: Authority) -> None:
        """One of three endpoints dies while it is asked: no idempotent request fails."""
        with run_http("api-1") as first, run_http("api-2") as second, ExitStack() as life:
            dying = life.enter_context(run_http("api-0"))
            services = {"api": [dying.port, first.port, second.port]}
            with run_pair(authority, services, protocol=PortProtocol.HTTP) as pair:
                load = Load(port_of(pair), callers=CROWD)
                load.wait(100)
                life.close()
                load.wait(300)
                load.stop()
        assert (load.failures, set(load.statuses)) == ([], {200})
        assert "api-0" in load.by[:100]

    def test_stalled_endpoint(self, authority: Authority) -> None:
        """One of three endpoints stalls: within 2 s it gets no more requests, and the others answer."""
        stalled = threading.Event()
        hung: list[float] = []

        def answer(asked: Asked) -> tuple[int, list[tuple[str, str]], bytes]:
            if stalled.is_set():
                hung.append(time.monotonic())
                time.sleep(SLOW)
            return tell("stalled", asked)

        policy = backend_policy(
            timeouts=PolicyTimeouts(per_try="250ms"),
            retries=Retries(on=(RetryReason.UNSENT, RetryReason.RESET, RetryReason.TIMEOUT)),
            outlier_ejection=OutlierEjection(consecutive_failures=2),
        )
        with run_http("a") as first, run_http("b") as second, run_http("stalled", answer) as third:
            services = {"api": [first.port, second.port, third.port]}
            with run_pair(authority, services, protocol=PortProtocol.HTTP) as pair:
                pair.lead(policies=(policy,))
                load = Load(port_of(pair), callers=CROWD, pause=0.005)
                load.wait(100)
                stalled.set()
                since = time.monotonic()
                time.sleep(3.0)
                load.stop()
        assert (load.failures, set(load.statuses)) == ([], {200})
        assert hung
        assert [at - since for at in hung if at > since + 2.0] == []

    def test_retry_storm(self, authority: Authority) -> None:
        """When everything fails, retries add a quarter to the load at most."""
        asked: list[str] = []

        def fail(request: Asked) -> tuple[int, list[tuple[str, str]], bytes]:
            asked.append(request.target)
            return 503, [], b""

        rule = HTTPRouteRule(backend_refs=(backend("api"),), retry=Retry(codes=(503,), attempts=3))
        policy = backend_policy(outlier_ejection=OutlierEjection(consecutive_failures=1_000_000))
        with run_api(authority, fail) as (pair, _):
            pair.lead(http_route(rule), policies=(policy,))
            load = Load(port_of(pair), callers=CROWD)
            load.wait(800)
            load.stop()
        assert set(load.statuses) == {503}
        assert len(asked) <= 1.25 * len(load.statuses) + 40

    def test_faults(self, versions: Pair) -> None:
        """A fault is there with the policy that says so, and gone with it."""
        fault = Fault(name="teapot", abort=Abort(percent=100, http_status=418))
        with client(port_of(versions)) as web:
            versions.lead(policies=(backend_policy(faults=(fault,)),))
            answered = web.get()
            versions.lead()
            assert (answered.status, answered.fields["nodemesh-reason"]) == (418, "fault")
            assert web.get().status == 200


class TestDrain:
    def test_open_requests_are_answered(self, authority: Authority) -> None:
        """A worker that drains answers what was asked, closes what is idle, and ends."""

        def slowly(asked: Asked) -> tuple[int, list[tuple[str, str]], bytes]:
            time.sleep(1.5)
            return tell("api", asked)

        with (
            run_api(authority, slowly) as (pair, _),
            client(port_of(pair)) as web,
            client(port_of(pair)) as idle,
        ):
            idle.get()
            answers: list[int] = []
            thread = threading.Thread(target=lambda: answers.append(web.get().status))
            thread.start()
            time.sleep(0.3)
            pair.near.drain(10)
            assert pair.near.wait_exit(8) == 0
            thread.join()
        assert answers == [200]

"""The services of the routing cases behind two proxies, and callers that ask them.

Every backend tells what it was asked, and answers with the fields that it was asked to answer with.
"""

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection

import msgspec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, ResponseReceived, StreamEnded

from node_proxy.snapshot import ServicePortView, ServiceView, Snapshot
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.service import PortProtocol
from tests.integration.certificates import Authority, spiffe
from tests.integration.http_workloads import Asked, run_http
from tests.integration.snapshots import endpoint, local, snapshot
from tests.integration.worker import Worker, stopping
from tests.integration.workloads import PATIENCE, Workload, run_workload
from tests.registry.rules.routing.cases import Case, Scenario, read_world
from tests.registry.rules.routing.outcome import Outcome

API = spiffe("api")
CALLERS = ("default/web", "shop/web", "other/web")
# What the backends are asked to answer with, in JSON.
WANTED = "x-wanted"
Text = list[tuple[str, str]]
Ask = Callable[[], Outcome]


class Mesh:
    """Running proxies: one on the host of each caller, and one before all backends."""

    def __init__(
        self, callers: Mapping[str, Worker], views: tuple[ServiceView, ...], reached: Counter[str]
    ) -> None:
        self.reached = reached
        self._callers = callers
        self._views = views
        self._revision = 1

    def lead(self, scenario: Scenario) -> None:
        """Put a scenario's routes in force."""
        self._revision += 1
        made = tuple(scenario.resources())
        for near in self._callers.values():
            near.give_snapshot(
                msgspec.structs.replace(
                    self.snapshot(near),
                    revision=self._revision,
                    http_routes=tuple((each, at) for each, at in made if isinstance(each, HTTPRoute)),
                    grpc_routes=tuple((each, at) for each, at in made if isinstance(each, GRPCRoute)),
                )
            )

    def snapshot(self, near: Worker) -> Snapshot:
        """Give what a caller's host knows."""
        namespace, _, account = near.node.partition("-")
        return snapshot(near, services=self._views, workloads=(local(account, namespace=namespace),))

    @contextmanager
    def caller(self, case: Case) -> Iterator[Ask]:
        """Give what makes the case's request, again and again over one connection."""
        near = self._callers[case.from_]
        service, port = case.called
        address = ("127.0.0.1", near.ports[f"{service}:{port}"])
        if case.grpc is not None:
            with socket.create_connection(address, PATIENCE) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                yield _Http2(connection, case).ask
            return
        plain = HTTPConnection(*address, timeout=PATIENCE)
        try:
            yield partial(_ask_plain, plain, case)
        finally:
            plain.close()


def _tell(reached: Counter[str], name: str, asked: Asked) -> tuple[int, Text, bytes]:
    """Answer as the backend of this name."""
    reached[name] += 1
    said: Text = [(key, value) for key, value in json.loads(asked.field(WANTED) or "{}").items()]
    told = {"by": name, "target": asked.target, "fields": asked.fields}
    return 200, [("content-type", "application/json"), *said], json.dumps(told).encode()


def _serve_http2(reached: Counter[str], name: str, connection: socket.socket) -> None:
    """Answer the calls of one connection as the gRPC backend of this name."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
    h2.initiate_connection()
    connection.sendall(h2.data_to_send())
    while received := connection.recv(1 << 16):
        for event in h2.receive_data(received):
            if isinstance(event, RequestReceived):
                fields = [(str(key), str(value)) for key, value in event.headers]
                named = dict(fields)
                asked = Asked(named[":method"], named[":path"], [("host", named[":authority"]), *fields], b"")
                _, said, body = _tell(reached, name, asked)
                h2.send_headers(
                    event.stream_id, [(":status", "200"), ("content-type", "application/grpc"), *said[1:]]
                )
                h2.send_data(event.stream_id, body)
                h2.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
        connection.sendall(h2.data_to_send())


def _ask_plain(connection: HTTPConnection, case: Case) -> Outcome:
    method, authority, target, fields = case.request
    connection.putrequest(method.decode(), target.decode(), skip_host=True, skip_accept_encoding=True)
    connection.putheader("host", authority.decode())
    for name, value in (*fields, (WANTED.encode(), json.dumps(case.answered).encode())):
        connection.putheader(name.decode(), value.decode())
    connection.endheaders()
    response = connection.getresponse()
    return _outcome(
        response.status, [(name.lower(), value) for name, value in response.getheaders()], response.read()
    )


class _Http2:
    """A caller of methods."""

    def __init__(self, connection: socket.socket, case: Case) -> None:
        self._connection = connection
        self._case = case
        self._h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self._h2.initiate_connection()

    def ask(self) -> Outcome:
        """Call the case's method."""
        method, authority, target, fields = self._case.request
        stream = self._h2.get_next_available_stream_id()
        pseudo = [(b":method", method), (b":scheme", b"http"), (b":authority", authority), (b":path", target)]
        self._h2.send_headers(stream, [*pseudo, *fields], end_stream=True)
        self._connection.sendall(self._h2.data_to_send())
        said: Text = []
        body = b""
        while received := self._connection.recv(1 << 16):
            events = self._h2.receive_data(received)
            for event in events:
                if isinstance(event, ResponseReceived):
                    said = [(str(key), str(value)) for key, value in event.headers]
                elif isinstance(event, DataReceived):
                    body += event.data
                    self._h2.acknowledge_received_data(event.flow_controlled_length, stream)
            self._connection.sendall(self._h2.data_to_send())
            if any(isinstance(event, StreamEnded) for event in events):
                break
        return _outcome(_status(dict(said)), said, body)


def _status(said: dict[str, str]) -> int:
    """Give the status of an answer, also of one in gRPC's terms."""
    # UNIMPLEMENTED stands for 404.
    return 404 if said.get("grpc-status") == "12" else int(said[":status"])


def _outcome(status: int, said: Text, body: bytes) -> Outcome:
    answer = [(name.encode(), value.encode()) for name, value in said]
    if status != 200:
        return Outcome(status, answer=answer)
    told = json.loads(body)
    fields = [(name.encode(), value.encode()) for name, value in told["fields"]]
    host = next(value for name, value in fields if name == b"host")
    return Outcome(200, told["by"], None, host, told["target"].encode(), fields, answer)


@contextmanager
def run_mesh(authority: Authority) -> Iterator[Mesh]:
    """Run the services of the cases, and the proxies of their callers."""
    world = read_world()
    ports = [(name, port, protocol) for name, found in world.items() for port, protocol in found.items()]
    far = Worker("far", "127.0.0.3")
    nears = {
        caller: Worker(
            caller.replace("/", "-"),
            f"127.0.0.{4 + number}",
            calls=[(name, port, _identity(caller)) for name, port, _ in ports],
        )
        for number, caller in enumerate(CALLERS)
    }
    with ExitStack() as stack:
        reached: Counter[str] = Counter()
        running: dict[tuple[str, int], Workload] = {}
        for name, port, protocol in ports:
            by = f"{name}:{port}"
            running[name, port] = stack.enter_context(
                run_workload(partial(_serve_http2, reached, by))
                if protocol is PortProtocol.GRPC
                else run_http(by, partial(_tell, reached, by))
            )
        views = tuple(
            ServiceView(
                name=name,
                vips=(),
                ports=tuple(
                    ServicePortView(
                        port=port,
                        protocol=protocol,
                        endpoints=(
                            endpoint(
                                far.node, far.address, far.tunnel_port, running[name, port].port, identity=API
                            ),
                        ),
                    )
                    for port, protocol in found.items()
                ),
            )
            for name, found in world.items()
        )
        mesh = Mesh(nears, views, reached)
        stack.enter_context(stopping(far, *nears.values()))
        behind = {running[name, port].port: protocol for name, port, protocol in ports}
        workload = msgspec.structs.replace(local("api", *behind), protocols=behind)
        far.start(snapshot(far, workloads=(workload,)), [authority.issue(API)], authority.root_pem)
        for caller, near in nears.items():
            near.start(mesh.snapshot(near), [authority.issue(_identity(caller))], authority.root_pem)
        yield mesh


def _identity(caller: str) -> str:
    namespace, _, account = caller.partition("/")
    return spiffe(account, namespace=namespace)

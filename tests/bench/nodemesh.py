"""Workers of this project on two hosts, as shipped but for the agent, which is not on the path of the bytes.

The workers of a host accept from the same sockets and know each other's counts, as its agent has them do.
"""

import contextlib
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from node_proxy.control import (
    CredentialsUpdate,
    ExplicitListener,
    FromWorker,
    MessageReader,
    Place,
    Ready,
    Report,
    SnapshotUpdate,
    ToWorker,
    WorkerConfig,
    encode,
)
from node_proxy.shares import Shares
from node_proxy.snapshot import LocalWorkload, ServiceView, Snapshot
from registry.model.authorization import AuthorizationPolicy
from registry.model.http_route import HTTPRoute
from registry.model.mesh import DefaultAuthorization
from registry.model.service import PortProtocol
from tests.bench.subjects import CALLER, LOOPBACK, SERVICE, Ports, Side, Site, Subject
from tests.integration.certificates import TRUST_DOMAIN
from tests.integration.snapshots import endpoint, local, service
from tests.support.processes import Process

NEAR = "127.0.0.2"
FAR = "127.0.0.3"
BACKLOG = 1024
SERVICE_PORT = 80
START_SECONDS = 20.0
# The shipped default, said here since no agent reads a configuration.
LOG_LEVEL = "info"


class Worker:
    """A worker process and what it tells."""

    def __init__(self, process: Process, control: socket.socket) -> None:
        self.process = process
        self._control = control
        self.reports: list[Report] = []
        self._ready = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, *messages: ToWorker) -> None:
        """Give it all its state and wait until it is ready."""
        for message in messages:
            self._control.sendall(encode(message))
        self.process.wait_ready(self._ready.is_set, what="Ready", deadline=START_SECONDS)

    def has_told(self, seen: int) -> bool:
        """Whether there are more reports than `seen`."""
        return len(self.reports) > seen

    def _listen(self) -> None:
        """Take what it tells until it is gone, as its agent does."""
        reader: MessageReader[FromWorker] = MessageReader(FromWorker)  # type: ignore[arg-type]
        with self._control, contextlib.suppress(ConnectionError):
            while data := self._control.recv(1 << 16):
                for message in reader.feed(data):
                    match message:
                        case Ready():
                            self._ready.set()
                        case Report():
                            self.reports.append(message)


@dataclass(frozen=True)
class Pair:
    """The workers of the callers' host and of the service's; callers reach the services at `ports`."""

    ports: Ports
    near: tuple[Worker, ...]
    far: tuple[Worker, ...]

    @property
    def workers(self) -> tuple[Worker, ...]:
        """All of them."""
        return (*self.near, *self.far)

    def wait_reports(self) -> None:
        """Wait until each has told its counters anew."""
        for worker, seen in [(worker, len(worker.reports)) for worker in self.workers]:
            worker.process.wait_ready(partial(worker.has_told, seen), what="a report")

    def subject(self, name: str) -> Subject:
        """Give it as what is measured."""
        return Subject(name, self.ports, tuple(worker.process for worker in self.workers))


def launch_nodemesh(site: Site) -> Subject:
    """Start two workers, one for the callers and one for the service."""
    return start_pair(site).subject("nodemesh")


def start_pair(
    site: Site,
    *,
    workers: int = 1,
    protocol: PortProtocol = PortProtocol.TCP,
    routes: Sequence[HTTPRoute] = (),
    policies: Sequence[AuthorizationPolicy] = (),
) -> Pair:
    """Start so many workers for the callers and as many for the service.

    The port for HTTP is declared as `protocol`; `routes` hold for the callers, `policies` for the service.
    """
    # A copy of a listening socket kept here would go on listening when its workers are gone.
    with contextlib.ExitStack() as copies:
        tunnel, unused, bulk, http = (
            copies.enter_context(socket.create_server((address, 0), backlog=BACKLOG))
            for address in (FAR, NEAR, LOOPBACK, LOOPBACK)
        )
        targets = {"default/bulk": site.backends.bulk, "default/http": site.backends.http}
        state = _snapshot("far", FAR, local=local("api", *targets.values(), protocol=protocol))
        state = msgspec.structs.replace(state, policies=tuple(policies))
        far = _start(site, site.far, workers, tunnel, {}, state)
        services = tuple(_service(name, port, tunnel, protocol) for name, port in targets.items())
        listeners = dict(zip(targets, (bulk, http), strict=True))
        state = _snapshot("near", NEAR, *services, local=local("web"))
        state = msgspec.structs.replace(state, http_routes=tuple((route, 1) for route in routes))
        near = _start(site, site.near, workers, unused, listeners, state)
        return Pair(Ports(_port(bulk), _port(http)), near, far)


def _start(
    site: Site,
    side: Side,
    workers: int,
    tunnel: socket.socket,
    listeners: Mapping[str, socket.socket],
    state: Snapshot,
) -> tuple[Worker, ...]:
    """Start the workers of a host and wait until all are ready."""
    config = WorkerConfig(
        node=state.node,
        trust_domain=TRUST_DOMAIN,
        tunnel_fds=(tunnel.fileno(),),
        captured_fds=(),
        listeners=tuple(
            ExplicitListener(fd=listener.fileno(), service=name, port=SERVICE_PORT, workload=CALLER)
            for name, listener in listeners.items()
        ),
        default_workload=None,
        mark=0,
        log_level=LOG_LEVEL,
    )
    credentials = CredentialsUpdate(
        credentials=(side.leaf.credential(),),
        default_identity=side.leaf.identity,
        roots_pem=side.roots_pem,
    )
    with contextlib.closing(Shares.make(workers)) as shares:
        inherited = [shares.fd, tunnel.fileno(), *(each.fileno() for each in listeners.values())]
        started = []
        for index in range(workers):
            worker = _spawn(site, state.node, inherited)
            place = Place(index=index, workers=workers, shares_fd=shares.fd)
            worker.start(
                msgspec.structs.replace(config, place=place), credentials, SnapshotUpdate(snapshot=state)
            )
            started.append(worker)
    return tuple(started)


def _spawn(site: Site, node: str, inherited: Sequence[int]) -> Worker:
    control, theirs = socket.socketpair()
    command = [sys.executable, "-m", "node_proxy.dataplane", "--control-fd", str(theirs.fileno())]
    with theirs:
        process = site.processes.start(f"nodemesh-{node}", command, pass_fds=[theirs.fileno(), *inherited])
    return Worker(process, control)


def _service(name: str, port: int, tunnel: socket.socket, protocol: PortProtocol) -> ServiceView:
    far = endpoint("far", FAR, _port(tunnel), port, identity=SERVICE)
    return service(name, SERVICE_PORT, far, protocol=protocol)


def _snapshot(node: str, address: str, *services: ServiceView, local: LocalWorkload) -> Snapshot:
    return Snapshot(
        revision=1,
        node=node,
        addresses=(address,),
        trust_domain=TRUST_DOMAIN,
        default_authorization=DefaultAuthorization.ALLOW,
        services=services,
        local=(local,),
    )


def _port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])

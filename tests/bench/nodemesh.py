"""A pair of this project's workers, as shipped but for the agent, which is not on the path of the bytes."""

import contextlib
import socket
import sys
import threading
from collections.abc import Mapping

from node_proxy.control import (
    CredentialsUpdate,
    ExplicitListener,
    FromWorker,
    MessageReader,
    Ready,
    SnapshotUpdate,
    WorkerConfig,
    encode,
)
from node_proxy.snapshot import LocalWorkload, ServiceView, Snapshot
from registry.model.mesh import DefaultAuthorization
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


def launch_nodemesh(site: Site) -> Subject:
    """Start two workers, one for the callers and one for the service."""
    # A copy of a listening socket kept here would go on listening when its worker is gone.
    with contextlib.ExitStack() as copies:
        tunnel, unused, bulk, http = (
            copies.enter_context(socket.create_server((address, 0), backlog=BACKLOG))
            for address in (FAR, NEAR, LOOPBACK, LOOPBACK)
        )
        targets = {"default/bulk": site.backends.bulk, "default/http": site.backends.http}
        far = _start(site, site.far, tunnel, {}, _snapshot("far", FAR, local=local("api", *targets.values())))
        services = tuple(_service(name, port, tunnel) for name, port in targets.items())
        listeners = dict(zip(targets, (bulk, http), strict=True))
        near = _start(
            site, site.near, unused, listeners, _snapshot("near", NEAR, *services, local=local("web"))
        )
        return Subject("nodemesh", Ports(_port(bulk), _port(http)), (near, far))


def _start(
    site: Site, side: Side, tunnel: socket.socket, listeners: Mapping[str, socket.socket], state: Snapshot
) -> Process:
    """Start a worker, give it all its state and wait until it is ready."""
    control, theirs = socket.socketpair()
    descriptors = [each.fileno() for each in (theirs, tunnel, *listeners.values())]
    command = [sys.executable, "-m", "node_proxy.dataplane.worker", "--control-fd", str(theirs.fileno())]
    with theirs:
        process = site.processes.start(f"nodemesh-{state.node}", command, pass_fds=descriptors)
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
    for message in (config, credentials, SnapshotUpdate(snapshot=state)):
        control.sendall(encode(message))
    ready = threading.Event()
    threading.Thread(target=_listen, args=(control, ready), daemon=True).start()
    process.wait_ready(ready.is_set, what="Ready", deadline=START_SECONDS)
    return process


def _listen(control: socket.socket, ready: threading.Event) -> None:
    """Take what a worker tells until it is gone, as its agent does."""
    reader: MessageReader[FromWorker] = MessageReader(FromWorker)  # type: ignore[arg-type]
    with control, contextlib.suppress(ConnectionError):
        while data := control.recv(1 << 16):
            if any(isinstance(message, Ready) for message in reader.feed(data)):
                ready.set()


def _service(name: str, port: int, tunnel: socket.socket) -> ServiceView:
    return service(name, SERVICE_PORT, endpoint("far", FAR, _port(tunnel), port, identity=SERVICE))


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

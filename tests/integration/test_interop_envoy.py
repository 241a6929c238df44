"""A real Envoy at the other end of the tunnel: as HBONE client of ours, and as HBONE server for ours."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from socket import SHUT_WR, socket

import pytest

from registry.model.authorization import Action
from tests.integration.certificates import Authority, Leaf, spiffe
from tests.integration.envoy import Envoy, hbone_client, hbone_server, run_envoy
from tests.integration.snapshots import endpoint, local, policy, service, snapshot
from tests.integration.worker import Worker, stopping
from tests.integration.workloads import (
    PATIENCE,
    Farewell,
    Handler,
    Workload,
    blocks,
    call,
    digest,
    digest_of_blocks,
    echo,
    is_closed,
    read_exactly,
    read_to_end,
    run_workload,
    source,
)
from tests.support.processes import wait_until

WEB = spiffe("web")
API = spiffe("api")
SERVICE = "default/api"
SERVICE_PORT = 80
ENVOY_ADDRESS = "127.0.0.7"
WORKER_ADDRESS = "127.0.0.8"
LENGTH = 8 << 20
SHORT = 60_000
STREAMS = 50


@dataclass
class Way:
    """A way through one Envoy and one worker: where callers connect, and what is at the end of it."""

    port: int
    workload: Workload
    worker: Worker
    envoy: Envoy
    tunnels: str

    def call(self) -> socket:
        """Connect as the calling service."""
        return call(self.port)


@contextmanager
def envoy_to_worker(
    authority: Authority,
    folder: Path,
    handler: Handler,
    *,
    envoy_leaf: Leaf | None = None,
    worker_leaf: Leaf | None = None,
) -> Iterator[Way]:
    """Run Envoy as the client of a worker."""
    worker = Worker("far", WORKER_ADDRESS)
    with ExitStack() as stack:
        stack.enter_context(stopping(worker))
        workload = stack.enter_context(run_workload(handler))
        worker.start(
            snapshot(worker, workloads=(local("api", workload.port),)),
            [worker_leaf or authority.issue(API, node="app-1")],
            authority.root_pem,
        )
        config = hbone_client(
            leaf=envoy_leaf or authority.issue(WEB, node="web-1"),
            roots_pem=authority.root_pem,
            tunnel=(worker.address, worker.tunnel_port),
            authority=f"{worker.address}:{workload.port}",
            expected=API,
        )
        envoy = stack.enter_context(run_envoy(config, folder / "client"))
        yield Way(envoy.port, workload, worker, envoy, r"cluster\.peer\.upstream_cx_total")


@contextmanager
def worker_to_envoy(
    authority: Authority,
    folder: Path,
    handler: Handler,
    *,
    envoy_leaf: Leaf | None = None,
    admitted: str = WEB,
) -> Iterator[Way]:
    """Run a worker as the client of Envoy."""
    worker = Worker("near", WORKER_ADDRESS, calls=[(SERVICE, SERVICE_PORT, WEB)])
    with ExitStack() as stack:
        stack.enter_context(stopping(worker))
        workload = stack.enter_context(run_workload(handler))
        config = hbone_server(
            leaf=envoy_leaf or authority.issue(API, node="app-1"),
            roots_pem=authority.root_pem,
            address=ENVOY_ADDRESS,
            authority=f"{ENVOY_ADDRESS}:{workload.port}",
            workload=("127.0.0.1", workload.port),
            expected=admitted,
            access_log=folder / "access.log",
        )
        envoy = stack.enter_context(run_envoy(config, folder / "server"))
        peer = endpoint("envoy", ENVOY_ADDRESS, envoy.port, workload.port, identity=API)
        worker.start(
            snapshot(worker, services=(service(SERVICE, SERVICE_PORT, peer),), workloads=(local("web"),)),
            [authority.issue(WEB, node="web-1")],
            authority.root_pem,
        )
        port = worker.ports[f"{SERVICE}:{SERVICE_PORT}"]
        yield Way(port, workload, worker, envoy, r"http\.server\.downstream_cx_total")


WAYS = [envoy_to_worker, worker_to_envoy]
either_way = pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
OpenWay = Callable[[Authority, Path, Handler], AbstractContextManager[Way]]


@either_way
def test_bytes_come_back(way: OpenWay, authority: Authority, tmp_path: Path) -> None:
    """What a caller sends comes back through an Envoy and a worker."""
    with way(authority, tmp_path, echo) as through, through.call() as connection:
        connection.sendall(b"hello")
        assert read_exactly(connection, 5) == b"hello"
        assert through.workload.accepted == 1


@either_way
def test_upload_and_answer_after_half_close(way: OpenWay, authority: Authority, tmp_path: Path) -> None:
    """Eight MiB up arrive whole; the answer that comes only after the caller's half-close arrives."""
    with way(authority, tmp_path, digest) as through, through.call() as connection:
        for block in blocks(LENGTH):
            connection.sendall(block)
        connection.shutdown(SHUT_WR)
        assert read_to_end(connection).decode() == digest_of_blocks(LENGTH)


@either_way
def test_download_to_the_end(way: OpenWay, authority: Authority, tmp_path: Path) -> None:
    """Eight MiB down arrive whole, and after the caller's end comes the workload's."""
    handler = source(LENGTH, patient=True)
    with way(authority, tmp_path, handler) as through, through.call() as connection:
        assert all(read_exactly(connection, len(block)) == block for block in blocks(LENGTH))
        connection.shutdown(SHUT_WR)
        assert read_to_end(connection) == b""


@either_way
def test_workload_that_closes_at_once(way: OpenWay, authority: Authority, tmp_path: Path) -> None:
    """What a workload said before it closed arrives whole, then a clean end.

    Envoy ends such a stream with END_STREAM and RST_STREAM(NO_ERROR), RFC 9113 section 8.1. More than a
    window must not be under way then: Envoy 1.40 would drop it, between two Envoys as well.
    """
    with way(authority, tmp_path, source(SHORT)) as through, through.call() as connection:
        assert read_to_end(connection) == b"".join(blocks(SHORT))


def test_workloads_half_close_reaches_envoys_caller(authority: Authority, tmp_path: Path) -> None:
    """A workload that ended its direction first still gets all that Envoy's caller sends.

    Only with Envoy as the client: as a server it ends a stream whose workload has ended first.
    """
    farewell = Farewell()
    with envoy_to_worker(authority, tmp_path, farewell) as through, through.call() as connection:
        assert read_to_end(connection) == b"farewell"
        for block in blocks(LENGTH):
            connection.sendall(block)
        connection.shutdown(SHUT_WR)
        assert farewell.received.get(timeout=10) == digest_of_blocks(LENGTH)


@either_way
def test_concurrent_streams_share_one_tunnel(way: OpenWay, authority: Authority, tmp_path: Path) -> None:
    """Fifty open connections are fifty streams of one tunnel, each with its own bytes."""
    with ExitStack() as stack:
        through = stack.enter_context(way(authority, tmp_path, echo))
        connections = [stack.enter_context(through.call()) for _ in range(STREAMS)]
        for round_ in range(3):
            for index, connection in enumerate(connections):
                connection.sendall(b"%04d" % (index * 10 + round_))
            for index, connection in enumerate(connections):
                assert read_exactly(connection, 4) == b"%04d" % (index * 10 + round_)
        assert through.workload.accepted == STREAMS
        assert through.envoy.stat(through.tunnels) == 1


def test_each_side_knows_the_other_by_its_spiffe_id(authority: Authority, tmp_path: Path) -> None:
    """Our worker logs Envoy's identity as the source; Envoy logs our worker's, over TLS 1.3."""
    with envoy_to_worker(authority, tmp_path / "in", echo) as through:
        with through.call() as connection:
            connection.sendall(b"x")
            assert read_exactly(connection, 1) == b"x"
        through.worker.wait_log("connection closed", source=WEB, identity=API)
    with worker_to_envoy(authority, tmp_path / "out", echo) as through, through.call() as connection:
        connection.sendall(b"x")
        assert read_exactly(connection, 1) == b"x"
        # Envoy writes its log when its buffer's time has come.
        log = tmp_path / "out" / "access.log"
        seen = wait_until(log.read_text, what="a line in Envoy's log", deadline=PATIENCE)
        assert seen == f"{WEB} TLSv1.3 CONNECT {ENVOY_ADDRESS}:{through.workload.port}\n"


@pytest.mark.parametrize(
    ("identity", "reason"),
    [(spiffe("web", trust_domain="other.example"), "trust_domain"), (WEB, "unknown_ca")],
)
def test_envoy_that_we_do_not_trust_is_refused(
    authority: Authority, stranger: Authority, tmp_path: Path, identity: str, reason: str
) -> None:
    """An Envoy of another trust domain or authority gets nothing through, and the reason is logged."""
    issuer = stranger if reason == "unknown_ca" else authority
    with envoy_to_worker(authority, tmp_path, echo, envoy_leaf=issuer.issue(identity)) as through:
        with through.call() as connection:
            assert is_closed(connection)
        through.worker.wait_log("tunnel refused", reason=reason)
        assert through.workload.accepted == 0


def test_envoy_refuses_a_worker_of_the_wrong_identity(authority: Authority, tmp_path: Path) -> None:
    """Envoy's own SAN check sees the identity that our worker proves: the wrong one gets nothing through."""
    # It answers to the name that Envoy asks for, with another identity in its certificate.
    false = replace(authority.issue(spiffe("other")), identity=API)
    with envoy_to_worker(authority, tmp_path, echo, worker_leaf=false) as through:
        with through.call() as connection:
            assert is_closed(connection)
        through.envoy.wait_stat(r"cluster\.peer\.ssl\.fail_verify_san", 1)
        assert through.workload.accepted == 0


def test_denied_envoy_is_told_no(authority: Authority, tmp_path: Path) -> None:
    """A DENY that names Envoy's identity closes its caller's connection; to Envoy its attempt has failed."""
    with envoy_to_worker(authority, tmp_path, echo) as through:
        deny = policy("no-web", Action.DENY, principals=(WEB.removeprefix("spiffe://"),))
        through.worker.give_snapshot(
            snapshot(
                through.worker,
                revision=2,
                workloads=(local("api", through.workload.port),),
                policies=(deny,),
            )
        )
        with through.call() as connection:
            assert is_closed(connection)
        through.worker.wait_log("stream refused", status=403, policy="default/no-web")
        through.envoy.wait_stat(r"cluster\.peer\.upstream_cx_connect_attempts_exceeded", 1)
        assert through.workload.accepted == 0


@pytest.mark.parametrize(
    "presented", [spiffe("other"), spiffe("api", trust_domain="other.example"), None], ids=str
)
def test_we_refuse_an_envoy_of_the_wrong_identity(
    authority: Authority, stranger: Authority, tmp_path: Path, presented: str | None
) -> None:
    """An Envoy server that proves another identity, or one by another authority, gets no byte from us."""
    leaf = stranger.issue(API) if presented is None else authority.issue(presented)
    with worker_to_envoy(authority, tmp_path, echo, envoy_leaf=leaf) as through:
        with through.call() as connection:
            connection.sendall(b"secret")
            assert is_closed(connection)
        refused = through.worker.wait_log("tunnel refused", side="outbound", source=WEB, destination=API)
        if presented is None:
            assert refused["reason"] == "unknown_ca"
        else:
            assert refused["reason"] in ("peer_identity", "trust_domain")
            assert presented in refused["detail"]
        through.worker.wait_log("stream refused", side="source", reason="no_endpoint")
        assert through.workload.accepted == 0


def test_envoy_that_refuses_us_gives_a_closed_connection(authority: Authority, tmp_path: Path) -> None:
    """When Envoy admits another identity only, our caller's connection ends and the log says why."""
    with worker_to_envoy(authority, tmp_path, echo, admitted=spiffe("other")) as through:
        with through.call() as connection:
            assert is_closed(connection)
        through.envoy.wait_stat(r"listener\..*\.ssl\.fail_verify_san", 1)
        refused = through.worker.wait_log("tunnel refused", side="outbound", source=WEB, destination=API)
        assert refused["reason"] == "bad_certificate"
        through.worker.wait_log("stream refused", side="source", reason="no_endpoint")
        assert through.workload.accepted == 0

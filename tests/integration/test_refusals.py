"""What a worker's tunnel port refuses, how it says so, and that nothing of it reaches a workload."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

import pytest

from registry.model.authorization import Action
from tests.integration.certificates import Authority, Leaf, client_context, server_name, spiffe
from tests.integration.hbone import Header, Stream, TunnelClient
from tests.integration.snapshots import local, policy, snapshot
from tests.integration.worker import LogLine, Worker, stopping
from tests.integration.workloads import Workload, call, echo, read_to_end, refusing_port, run_workload

WEB = spiffe("web")
API = spiffe("api")
LEDGER = spiffe("ledger", namespace="closed")
FOREIGN = spiffe("web", trust_domain="other.example")
HOUR = timedelta(hours=1)


@dataclass
class Door:
    """A worker with workloads behind its tunnel port; `guarded` is the one nobody may have reached."""

    worker: Worker
    guarded: Workload
    closed: Workload
    down: int
    authority: Authority
    stranger: Authority

    @property
    def target(self) -> tuple[str, int]:
        """Where to dial the tunnel."""
        return self.worker.address, self.worker.tunnel_port

    @property
    def authority_of_guarded(self) -> str:
        """The address that a good CONNECT names."""
        return f"{self.worker.address}:{self.guarded.port}"

    def open(self, leaf: Leaf | None, *, to: str = API) -> TunnelClient:
        """Open a tunnel to the identity `to` with the certificate given."""
        context = client_context(leaf, self.authority.root_pem)
        return TunnelClient(self.target, context, name=server_name(to))

    def open_as(self, account: str, *, namespace: str = "default", to: str = API) -> TunnelClient:
        """Open a tunnel as an account of the mesh."""
        return self.open(self.authority.issue(spiffe(account, namespace=namespace)), to=to)


@pytest.fixture(scope="module")
def door(authority: Authority, stranger: Authority) -> Iterator[Door]:
    """Run a worker that lets `web` in, and neither `mallory` nor the namespace `banned`."""
    worker = Worker("door", "127.0.0.5")
    with ExitStack() as stack:
        stack.enter_context(stopping(worker))
        guarded = stack.enter_context(run_workload(echo))
        closed = stack.enter_context(run_workload(echo))
        down = stack.enter_context(refusing_port())
        worker.start(
            snapshot(
                worker,
                workloads=(
                    local("api", guarded.port, down),
                    local("ledger", closed.port, namespace="closed"),
                ),
                policies=(
                    policy("no-mallory", Action.DENY, principals=("nodemesh.local/ns/default/sa/mallory",)),
                    policy("no-banned", Action.DENY, namespaces=("banned",)),
                ),
                closed={"closed": "authorizationpolicies/closed/broken"},
            ),
            [authority.issue(API), authority.issue(LEDGER)],
            authority.root_pem,
        )
        yield Door(worker, guarded, closed, down, authority, stranger)


@pytest.fixture(autouse=True)
def nothing_reached(door: Door) -> Iterator[None]:
    """Check after each test that no connection reached the workloads."""
    before = door.guarded.accepted, door.closed.accepted
    yield
    assert (door.guarded.accepted, door.closed.accepted) == before


CERTIFICATES: dict[str, tuple[Callable[[Door], Leaf | None], str]] = {
    "none": (lambda door: None, "no_certificate"),
    "of another authority": (lambda door: door.stranger.issue(WEB), "unknown_ca"),
    "of another authority and trust domain": (lambda door: door.stranger.issue(FOREIGN), "unknown_ca"),
    "of another trust domain by our root": (lambda door: door.authority.issue(FOREIGN), "trust_domain"),
    "expired": (lambda door: door.authority.issue(WEB, starts=-3 * HOUR, ends=-HOUR), "expired"),
    "not yet valid": (lambda door: door.authority.issue(WEB, starts=HOUR), "not_yet_valid"),
    "without a URI": (lambda door: door.authority.issue(WEB, uris=(), dns=("web.example",)), "bad_identity"),
    "with two URIs": (lambda door: door.authority.issue(WEB, uris=(WEB, API)), "bad_identity"),
    "with a malformed URI": (
        lambda door: door.authority.issue(WEB, uris=("spiffe://nodemesh.local/web",)),
        "bad_identity",
    ),
}


@pytest.mark.parametrize("kind", CERTIFICATES)
def test_certificate_is_refused(door: Door, kind: str) -> None:
    """A tunnel with such a certificate is refused, its CONNECT unanswered, the reason and peer logged."""
    make, reason = CERTIFICATES[kind]
    since = len(door.worker.logs)
    with door.open(make(door)) as client:
        own_port = client.socket.getsockname()[1]
        # In TLS 1.3 a client may speak before the server has looked at its certificate.
        stream = client.request(_connect(door.authority_of_guarded))
        client.wait_closed()
        assert stream.status is None
    line = door.worker.wait_log("tunnel refused", since=since, reason=reason)
    assert line["peer"].endswith(f":{own_port}")


@pytest.mark.parametrize("protocols", [["http/1.1"], []], ids=["http/1.1", "none"])
def test_peer_that_does_not_offer_http2_is_refused(door: Door, protocols: list[str]) -> None:
    """Without ALPN h2 there is no tunnel."""
    since = len(door.worker.logs)
    context = client_context(door.authority.issue(WEB), door.authority.root_pem)
    context.set_alpn_protocols(protocols)
    with TunnelClient(door.target, context, name=server_name(API)) as client:
        client.wait_closed()
    door.worker.wait_log("tunnel refused", since=since, reason="protocol")


def test_old_tls_is_refused(door: Door) -> None:
    """A peer that speaks TLS 1.2 at most gets no tunnel."""
    since = len(door.worker.logs)
    context = client_context(door.authority.issue(WEB), door.authority.root_pem)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="VERSION"):
        TunnelClient(door.target, context, name=server_name(API))
    door.worker.wait_log("tunnel refused", since=since, reason="protocol")


@pytest.mark.parametrize(
    "noise",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 4096, b"\x16\x03\x01\xff\xff" + b"\xaa" * 70_000],
)
def test_bytes_that_are_no_tls_are_refused(door: Door, noise: bytes) -> None:
    """Garbage on the tunnel port ends that connection and is logged."""
    since = len(door.worker.logs)
    with call(door.worker.tunnel_port, address=door.worker.address) as connection:
        try:
            connection.sendall(noise)
            read_to_end(connection)
        except ConnectionError:
            # It may be reset with our garbage unread.
            pass
    door.worker.wait_log("tunnel refused", since=since)


def _connect(authority: str) -> list[Header]:
    return [(b":method", b"CONNECT"), (b":authority", authority.encode())]


def ask(client: TunnelClient, headers: list[Header]) -> Stream:
    """Ask and wait for the refusal, in whatever form it comes."""
    stream = client.request(headers)
    client.pump(lambda: stream.status is not None or stream.reset is not None)
    return stream


UNKNOWN: dict[str, Callable[[Door], str]] = {
    "unregistered port": lambda door: f"{door.worker.address}:1",
    "tunnel port itself": lambda door: f"{door.worker.address}:{door.worker.tunnel_port}",
    "another address": lambda door: f"127.0.0.9:{door.guarded.port}",
    "the workload's own loopback address": lambda door: f"127.0.0.1:{door.guarded.port}",
    "unspecified address": lambda door: f"0.0.0.0:{door.guarded.port}",
    "IPv6 loopback": lambda door: f"[::1]:{door.guarded.port}",
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_connect_elsewhere_is_not_found(door: Door, kind: str) -> None:
    """CONNECT to anything but a registered workload's port is 404: this is no open proxy."""
    since = len(door.worker.logs)
    with door.open_as("web") as client:
        stream = client.connect(UNKNOWN[kind](door))
    assert stream.status == 404
    assert stream.reason
    assert door.worker.wait_log("stream refused", since=since, status=404)["source"] == WEB


MALFORMED: dict[str, Callable[[Door], list[Header]]] = {
    "GET": lambda door: [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/"),
        (b":authority", door.authority_of_guarded.encode()),
    ],
    "extended CONNECT": lambda door: [
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"https"),
        (b":path", b"/"),
        (b":authority", door.authority_of_guarded.encode()),
    ],
    "no authority": lambda door: [(b":method", b"CONNECT")],
    "empty authority": lambda door: _connect(""),
    "a name": lambda door: _connect(f"localhost:{door.guarded.port}"),
    "no port": lambda door: _connect(door.worker.address),
    "port beyond range": lambda door: _connect(f"{door.worker.address}:99999"),
    "negative port": lambda door: _connect(f"{door.worker.address}:-1"),
    "port in words": lambda door: _connect(f"{door.worker.address}:http"),
    "two ports": lambda door: _connect(f"{door.authority_of_guarded}:80"),
    "user part": lambda door: _connect(f"root@{door.authority_of_guarded}"),
    "URL": lambda door: _connect(f"http://{door.authority_of_guarded}/"),
    "trailing space": lambda door: _connect(f"{door.authority_of_guarded} "),
    "unclosed bracket": lambda door: _connect(f"[{door.authority_of_guarded}"),
    "not ASCII": lambda door: _connect(f"{door.authority_of_guarded}\N{ARABIC-INDIC DIGIT ONE}"),
    "endless port": lambda door: _connect(f"{door.worker.address}:" + "1" * 5000),
    "long": lambda door: _connect("1" * 8000 + ":80"),
    "digits of another script": lambda door: _connect(f"{door.worker.address}:\N{ARABIC-INDIC DIGIT ONE}"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_request_is_refused(door: Door, kind: str) -> None:
    """A request that is no well-formed CONNECT is refused: by a status, a reset, or the end of the tunnel."""
    with door.open_as("web") as client:
        stream = ask(client, MALFORMED[kind](door))
        assert stream.status in (None, 400, 404, 405)
        assert stream.status or stream.reset is not None or client.closed


def _refused_by_policy(door: Door, stream: Stream, policy_name: str, since: int) -> LogLine:
    assert stream.status == 403
    code, policy_part, decision = stream.reason.split("; ")
    assert code
    assert policy_part == f"policy={policy_name}"
    line = door.worker.wait_log("stream refused", since=since, status=403, policy=policy_name)
    assert decision == f"id={line['id']}"
    return line


def test_denied_identity_is_told_the_policy(door: Door) -> None:
    """A denied caller gets 403 with the policy's name and a decision that the log has too."""
    since = len(door.worker.logs)
    with door.open_as("mallory") as client:
        stream = client.connect(door.authority_of_guarded)
    line = _refused_by_policy(door, stream, "default/no-mallory", since)
    told = (line["source"], line["destination"], line["port"])
    assert told == (spiffe("mallory"), "default/api", door.guarded.port)


def test_denied_namespace_is_refused(door: Door) -> None:
    """A DENY by namespace holds for every account in it."""
    since = len(door.worker.logs)
    with door.open_as("anyone", namespace="banned") as client:
        stream = client.connect(door.authority_of_guarded)
    _refused_by_policy(door, stream, "default/no-banned", since)


def test_closed_namespace_refuses_everyone(door: Door) -> None:
    """A namespace whose policy never parsed refuses, and the log names the key that is to blame."""
    since = len(door.worker.logs)
    with door.open_as("web", to=LEDGER) as client:
        stream = client.connect(f"{door.worker.address}:{door.closed.port}")
    assert stream.status == 403
    line = door.worker.wait_log("stream refused", since=since, status=403)
    assert "authorizationpolicies/closed/broken" in str(line)


def test_workload_that_refuses_gives_503(door: Door) -> None:
    """A registered port at which nobody listens is 503: 200 comes only after the dial."""
    with door.open_as("web") as client:
        stream = client.connect(f"{door.worker.address}:{door.down}")
    assert stream.status == 503
    assert stream.reason


def test_unknown_server_name_is_refused(door: Door) -> None:
    """A tunnel that asks for an identity which this host does not have is refused in the handshake."""
    context = client_context(door.authority.issue(WEB), door.authority.root_pem)
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        TunnelClient(door.target, context, name=server_name(spiffe("elsewhere")))


def test_port_of_one_identity_is_not_reached_through_another(door: Door) -> None:
    """A tunnel that proved to be `api` does not lead to the workload of `ledger`."""
    with door.open_as("web") as client:
        assert client.connect(f"{door.worker.address}:{door.closed.port}").status == 404

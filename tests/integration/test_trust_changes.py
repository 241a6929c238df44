"""Worker to worker while what they trust changes: revocations, renewals, the rotation of a root."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from registry.model.enrolment import Revocation
from tests.integration.certificates import HOUR, Authority, Leaf, client_context, server_name, spiffe
from tests.integration.hbone import TunnelClient
from tests.integration.pair import API, WEB, Pair, run_pair
from tests.integration.worker import Worker
from tests.integration.workloads import Workload, echo, is_closed, read_exactly, run_workload

NEAR, FAR = "near", "far"
CALLERS = 4
# Design: a revocation is in force everywhere within this; the workers' share of it is what is measured here,
# so this only keeps a test from waiting for something that was never done.
IN_FORCE = 2.0


@pytest.fixture
def workload() -> Iterator[Workload]:
    """Run an echo workload."""
    with run_workload(echo) as running:
        yield running


@pytest.fixture
def pair(authority: Authority, workload: Workload) -> Iterator[Pair]:
    """Run two workers with the echo workload as service `echo`, their certificates naming their nodes."""
    with run_pair(authority, {"echo": [workload.port]}) as running:
        running.near.give_credentials([authority.issue(WEB, node=NEAR)], authority.root_pem)
        running.far.give_credentials([authority.issue(API, node=FAR)], authority.root_pem)
        yield running


def revoked(kind: Literal["node", "identity", "serial"], value: str) -> Revocation:
    """Give a revocation of now."""
    return Revocation(
        kind=kind, value=value, revoked_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), reason="stolen"
    )


def round_trip(pair: Pair, text: bytes = b"there and back") -> bool:
    """Whether a new connection carries a few bytes to the workload and back."""
    try:
        with pair.call("echo") as connection:
            connection.sendall(text)
            return read_exactly(connection, len(text)) == text
    except ConnectionError:
        return False


class Load:
    """Callers that connect again and again; `failures` are those that did not get their bytes back."""

    def __init__(self, pair: Pair) -> None:
        self.done = 0
        self.failures = 0
        self._pair = pair
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Call until told to stop."""
        while not self._stop.is_set():
            worked = round_trip(self._pair)
            with self._lock:
                self.done += worked
                self.failures += not worked

    def stop(self) -> None:
        """Let the callers end."""
        self._stop.set()

    def more(self, calls: int = 30) -> None:
        """Wait until so many more calls have come through, or one has failed."""
        target = self.done + calls
        deadline = time.monotonic() + 20
        while self.done < target and not self.failures and time.monotonic() < deadline:
            time.sleep(0.005)


@contextmanager
def under_load(pair: Pair) -> Iterator[Load]:
    """Keep callers busy while the block runs."""
    load = Load(pair)
    threads = [threading.Thread(target=load.run) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop()
        for thread in threads:
            thread.join()


class TestRevocation:
    @pytest.mark.parametrize("kind", ["node", "identity", "serial"])
    def test_caller(
        self,
        pair: Pair,
        authority: Authority,
        workload: Workload,
        kind: Literal["node", "identity", "serial"],
    ) -> None:
        """A revoked caller's live tunnel is cut with its streams, and its next handshake refused."""
        caller = authority.issue(WEB, node=NEAR)
        pair.near.give_credentials([caller], authority.root_pem)
        values = {"node": NEAR, "identity": WEB, "serial": f"{caller.certificate.serial_number:x}"}
        with pair.call("echo") as connection:
            connection.sendall(b"open")
            assert read_exactly(connection, 4) == b"open"
            began = time.monotonic()
            revocation = revoked(kind, values[kind])
            pair.far.give_credentials(
                [authority.issue(API, node=FAR)], authority.root_pem, revocations=(revocation,)
            )
            assert is_closed(connection)
            assert time.monotonic() - began < IN_FORCE
        line = pair.far.wait_log("tunnel cut", side="inbound", reason="revoked", peer=WEB, peer_node=NEAR)
        assert line["streams"] == 1
        assert f"by {kind} {values[kind]}" in line["detail"]
        seen = workload.accepted
        assert not round_trip(pair)
        assert workload.accepted == seen
        pair.far.wait_log("tunnel refused", side="inbound", reason="revoked")
        heard = pair.near.wait_log("tunnel refused", side="outbound", reason="refused")
        assert f"revoked by {kind} {values[kind]}" in heard["detail"]
        assert counted(pair.far, "nodemesh_tunnels_cut_total", side="inbound", reason="revoked") == 1

    def test_destination(self, pair: Pair, authority: Authority, workload: Workload) -> None:
        """A revoked destination's live tunnel is cut by the caller, which makes no other to it."""
        with pair.call("echo") as connection:
            connection.sendall(b"open")
            assert read_exactly(connection, 4) == b"open"
            pair.near.give_credentials(
                [authority.issue(WEB, node=NEAR)], authority.root_pem, revocations=(revoked("node", FAR),)
            )
            assert is_closed(connection)
        pair.near.wait_log("tunnel cut", side="outbound", reason="revoked", peer=API, peer_node=FAR)
        seen = workload.accepted
        assert not round_trip(pair)
        assert workload.accepted == seen
        pair.near.wait_log("tunnel refused", side="outbound", reason="revoked")
        assert counted(pair.near, "nodemesh_tunnels_cut_total", side="outbound") == 1

    def test_retired_tunnel(self, pair: Pair, authority: Authority) -> None:
        """A tunnel that a renewal has retired and that still carries a stream is cut like any other."""
        with pair.call("echo") as connection:
            connection.sendall(b"open")
            assert read_exactly(connection, 4) == b"open"
            renewed = authority.issue(WEB, node=NEAR)
            pair.near.give_credentials([renewed], authority.root_pem)
            assert round_trip(pair)
            pair.near.give_credentials([renewed], authority.root_pem, revocations=(revoked("identity", API),))
            assert is_closed(connection)

    def test_of_others(self, pair: Pair, authority: Authority) -> None:
        """A revocation that concerns neither end cuts nothing, and no tunnel shakes hands anew."""
        leaves = {pair.near: authority.issue(WEB, node=NEAR), pair.far: authority.issue(API, node=FAR)}
        for worker, leaf in leaves.items():
            worker.give_credentials([leaf], authority.root_pem)
        with pair.call("echo") as connection:
            connection.sendall(b"open")
            assert read_exactly(connection, 4) == b"open"
            before = pair.tunnels()
            for worker, leaf in leaves.items():
                others = (revoked("node", "third"), revoked("identity", spiffe("other")))
                worker.give_credentials([leaf], authority.root_pem, revocations=others)
            assert round_trip(pair)
            assert pair.tunnels() == before
            connection.sendall(b"goes on")
            assert read_exactly(connection, 7) == b"goes on"

    def test_certified_anew(self, pair: Pair, authority: Authority) -> None:
        """A revoked node that was enrolled anew is let in with its new certificate."""
        revocation = revoked("node", NEAR)
        pair.far.give_credentials(
            [authority.issue(API, node=FAR)], authority.root_pem, revocations=(revocation,)
        )
        assert not round_trip(pair)
        later = authority.issue(WEB, node=NEAR, starts=timedelta(seconds=2) - timedelta(minutes=5))
        pair.near.give_credentials([later], authority.root_pem)
        deadline = time.monotonic() + 20
        while not round_trip(pair):
            # The endpoint was ejected for a moment by the refusals before.
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_both_ends_hear_why(pair: Pair, authority: Authority) -> None:
    """A refusal after the handshake is told to the peer: an expired caller hears since when."""
    expired = authority.issue(WEB, starts=-25 * HOUR, ends=-HOUR)
    pair.near.give_credentials([expired], authority.root_pem)
    assert not round_trip(pair)
    here = pair.far.wait_log("tunnel refused", side="inbound", reason="expired")
    there = pair.near.wait_log("tunnel refused", side="outbound", reason="refused")
    assert "has expired since" in here["detail"]
    assert here["detail"] in there["detail"]


def test_expired_destination_hears_it(pair: Pair, authority: Authority) -> None:
    """So does a destination whose certificate the caller refuses."""
    expired = authority.issue(API, starts=-25 * HOUR, ends=-HOUR)
    pair.far.give_credentials([expired], authority.root_pem)
    assert not round_trip(pair)
    pair.near.wait_log("tunnel refused", side="outbound", reason="expired")
    deadline = time.monotonic() + 10
    while not any("has expired since" in str(line.get("outcome")) for line in pair.far.logs):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_renewal_under_load_fails_no_request(pair: Pair, authority: Authority) -> None:
    """Twenty renewals at both ends while callers connect all the time: not one call fails."""
    with pair.call("echo") as lasting:
        with under_load(pair) as load:
            for _ in range(20):
                pair.near.give_credentials([authority.issue(WEB, node=NEAR)], authority.root_pem)
                load.more(10)
                pair.far.give_credentials([authority.issue(API, node=FAR)], authority.root_pem)
                load.more(10)
        assert (load.failures, load.done > 300) == (0, True)
        lasting.sendall(b"still here")
        assert read_exactly(lasting, 10) == b"still here"


def test_rotation_of_the_root_fails_no_request(workload: Workload) -> None:
    """Old root, both, new certificates, new root alone, node after node under load: not one call fails."""
    old, new = Authority("old root", path_length=1), Authority("new root", path_length=1)
    before, after = Authority("old issuing", above=old), Authority("new issuing", above=new)
    both = old.root_pem + new.root_pem
    with run_pair(before, {"echo": [workload.port]}) as pair, pair.call("echo") as lasting:
        held: dict[str, Leaf] = {NEAR: before.issue(WEB, node=NEAR), FAR: before.issue(API, node=FAR)}
        with under_load(pair) as load:
            for roots, issuing in ((both, None), (both, after), (new.root_pem, None)):
                for worker, identity in ((pair.near, WEB), (pair.far, API)):
                    if issuing is not None:
                        held[worker.node] = issuing.issue(identity, node=worker.node)
                    worker.give_credentials([held[worker.node]], roots)
                    # Between any two nodes' steps the mesh must work.
                    load.more(50)
        assert (load.failures, load.done > 200) == (0, True)
        lasting.sendall(b"still here")
        assert read_exactly(lasting, 10) == b"still here"
        refused_from(pair.far, before, new.root_pem)


def refused_from(worker: Worker, authority: Authority, roots_pem: str) -> None:
    """Check that a certificate of `authority` is not accepted any more."""
    context = client_context(authority.issue(WEB), roots_pem)
    with TunnelClient((worker.address, worker.tunnel_port), context, name=server_name(API)) as client:
        client.wait_closed()
    worker.wait_log("tunnel refused", reason="unknown_ca")


def counted(worker: Worker, name: str, **labels: str) -> float:
    """Add up a counter in the worker's next report."""
    return sum(
        sample.value
        for sample in worker.wait_report().samples
        if sample.name == name and labels.items() <= dict(sample.labels).items()
    )

"""Worker to worker while the rules, the certificates or the processes change."""

from collections.abc import Iterator
from dataclasses import replace
from socket import SHUT_WR, socket

import pytest

from registry.model.authorization import Action
from registry.model.mesh import DefaultAuthorization
from tests.integration.certificates import Authority, client_context, server_name, spiffe
from tests.integration.hbone import TunnelClient
from tests.integration.pair import API, SERVICE_PORT, WEB, Pair, run_pair
from tests.integration.snapshots import endpoint, local, policy, service, snapshot
from tests.integration.worker import Worker, stopping
from tests.integration.workloads import (
    Workload,
    echo,
    is_closed,
    read_exactly,
    read_to_end,
    run_workload,
    wait_refusing,
)

WEB_PRINCIPAL = WEB.removeprefix("spiffe://")


@pytest.fixture
def workload() -> Iterator[Workload]:
    """Run an echo workload."""
    with run_workload(echo) as running:
        yield running


@pytest.fixture
def pair(authority: Authority, workload: Workload) -> Iterator[Pair]:
    """Run two workers with the echo workload as service `echo`."""
    with run_pair(authority, {"echo": [workload.port]}) as running:
        yield running


def talk(connection: socket, text: bytes = b"still here") -> bool:
    """Send and get back a few bytes; False when the connection has ended."""
    try:
        connection.sendall(text)
        return read_exactly(connection, len(text)) == text
    except ConnectionError:
        return False


def reaches(pair: Pair) -> bool:
    """Whether a new connection reaches the workload."""
    with pair.call("echo") as connection:
        return talk(connection)


def test_deny_refuses_its_principal_and_nobody_else(pair: Pair, workload: Workload) -> None:
    """A DENY that names the caller refuses it before the workload sees anything; one for another does not."""
    pair.enforce(policy("no-other", Action.DENY, principals=("nodemesh.local/ns/default/sa/other",)))
    assert reaches(pair)
    pair.enforce(policy("no-web", Action.DENY, principals=(WEB_PRINCIPAL,)))
    seen = workload.accepted
    assert not reaches(pair)
    assert workload.accepted == seen
    assert pair.far.wait_log("stream refused", status=403, policy="default/no-web", source=WEB)


def test_the_caller_learns_which_policy_refused_it(pair: Pair) -> None:
    """The near worker logs the refusal with the policy's name: each refusal is told at both ends."""
    pair.enforce(policy("no-web", Action.DENY, principals=(WEB_PRINCIPAL,)))
    assert not reaches(pair)
    far_line = pair.far.wait_log("stream refused", status=403)
    line = pair.near.wait_log("stream refused", side="source", source=WEB, reason="denied")
    assert f"policy=default/no-web; id={far_line['id']}" in line["detail"]


def test_allow_admits_whom_it_names_only(pair: Pair) -> None:
    """Once an ALLOW selects the workload, who is not named in one is refused."""
    pair.enforce(policy("other-only", Action.ALLOW, principals=("nodemesh.local/ns/default/sa/other",)))
    assert not reaches(pair)
    pair.enforce(policy("web-only", Action.ALLOW, principals=(WEB_PRINCIPAL,)))
    assert reaches(pair)


def test_default_deny_needs_an_allow(pair: Pair, workload: Workload) -> None:
    """With the mesh default `deny`, only an ALLOW opens the door, and only on its port."""
    pair.enforce(default=DefaultAuthorization.DENY)
    assert not reaches(pair)
    pair.enforce(policy("wrong-port", Action.ALLOW, ports=(1,)), default=DefaultAuthorization.DENY)
    assert not reaches(pair)
    pair.enforce(policy("port", Action.ALLOW, ports=(workload.port,)), default=DefaultAuthorization.DENY)
    assert reaches(pair)


def test_a_new_deny_cuts_open_connections(pair: Pair) -> None:
    """A connection that the new policy would refuse is cut, with the policy's name in the log."""
    with pair.call("echo") as connection:
        assert talk(connection)
        pair.enforce(policy("no-web", Action.DENY, principals=(WEB_PRINCIPAL,)))
        assert is_closed(connection)
    pair.far.wait_log("stream cut", policy="default/no-web", source=WEB)


def test_a_change_that_still_allows_cuts_nothing(pair: Pair) -> None:
    """A connection that the new policies allow goes on."""
    with pair.call("echo") as connection:
        assert talk(connection)
        pair.enforce(policy("web-only", Action.ALLOW, principals=(WEB_PRINCIPAL,)))
        assert talk(connection)


def test_rotation_leaves_open_streams_alone(pair: Pair, authority: Authority) -> None:
    """New certificates break no open stream, and new connections work."""
    with pair.call("echo") as connection:
        assert talk(connection)
        pair.far.give_credentials([authority.issue(API)], authority.root_pem)
        pair.near.give_credentials([authority.issue(WEB)], authority.root_pem)
        assert talk(connection)
        assert reaches(pair)
        assert talk(connection)


def test_new_root_is_used_by_new_handshakes(pair: Pair, authority: Authority, workload: Workload) -> None:
    """After the root was replaced, handshakes of both roles use the new one and an old peer is refused."""
    successor = Authority("successor")
    with pair.call("echo") as connection:
        assert talk(connection)
        pair.far.give_credentials([successor.issue(API)], successor.root_pem)
        pair.near.give_credentials([successor.issue(WEB)], successor.root_pem)
        _wait_for_root(pair.far, successor)

        target = (pair.far.address, pair.far.tunnel_port)
        old = client_context(authority.issue(WEB), successor.root_pem)
        with TunnelClient(target, old, name=server_name(API)) as refused:
            refused.wait_closed()
        pair.far.wait_log("tunnel refused", reason="unknown_ca")

        third = Worker("third", "127.0.0.4")
        with stopping(third):
            third.start(
                snapshot(third, workloads=(local("api", workload.port),)),
                [successor.issue(API)],
                successor.root_pem,
            )
            moved = endpoint("third", third.address, third.tunnel_port, workload.port, identity=API)
            pair.near.give_snapshot(
                snapshot(
                    pair.near,
                    revision=2,
                    services=(service("default/echo", SERVICE_PORT, moved),),
                    workloads=(local("web"),),
                )
            )
            assert reaches(pair)
            third.wait_log("connection closed", source=WEB)
        assert talk(connection)


def _wait_for_root(far: Worker, successor: Authority) -> None:
    """Wait until the far worker's handshakes show a certificate of `successor`."""
    context = client_context(successor.issue(spiffe("probe")), successor.root_pem)
    for _ in range(200):
        try:
            with TunnelClient((far.address, far.tunnel_port), context, name=server_name(API)):
                return
        except OSError:
            continue
    raise AssertionError("the far worker never showed its new certificate")


def test_endpoint_of_another_identity_is_refused(
    pair: Pair, authority: Authority, workload: Workload
) -> None:
    """A tunnel whose certificate is not the endpoint's identity carries nothing."""
    impostor = Worker("impostor", "127.0.0.4")
    with stopping(impostor):
        impostor.start(
            snapshot(impostor, workloads=(local("api", workload.port),)),
            # It answers to the name, but its certificate says who it is.
            [replace(authority.issue(spiffe("other")), identity=API)],
            authority.root_pem,
        )
        false = endpoint("impostor", impostor.address, impostor.tunnel_port, workload.port, identity=API)
        pair.near.give_snapshot(
            snapshot(
                pair.near,
                revision=2,
                services=(service("default/echo", SERVICE_PORT, false),),
                workloads=(local("web"),),
            )
        )
        seen = workload.accepted
        assert not reaches(pair)
        assert workload.accepted == seen
        refused = pair.near.wait_log("tunnel refused", side="outbound", reason="peer_identity")
        assert spiffe("other") in refused["detail"]


def test_drain_finishes_what_is_open_and_takes_nothing_new(pair: Pair) -> None:
    """A draining far worker carries its open stream to the end, refuses new ones, then exits cleanly."""
    with pair.call("echo") as connection:
        assert talk(connection)
        pair.far.drain(30.0)
        wait_refusing(pair.far.tunnel_port, address=pair.far.address)
        assert not reaches(pair)
        assert talk(connection)
        connection.shutdown(SHUT_WR)
        assert read_to_end(connection) == b""
    assert pair.far.wait_exit() == 0


def test_drain_closes_the_listeners_of_the_near_host(pair: Pair) -> None:
    """A draining near worker accepts nothing more but finishes what it has."""
    with pair.call("echo") as connection:
        assert talk(connection)
        pair.near.drain(30.0)
        wait_refusing(pair.near.ports[f"default/echo:{SERVICE_PORT}"])
        assert talk(connection)
    assert pair.near.wait_exit() == 0


def test_drain_ends_at_its_deadline(pair: Pair) -> None:
    """A stream that never ends does not hold a draining worker beyond its deadline."""
    with pair.call("echo") as connection:
        assert talk(connection)
        pair.far.drain(0.2)
        assert pair.far.wait_exit() == 0
        assert is_closed(connection)


def test_workers_without_their_agent_drain(pair: Pair) -> None:
    """After EOF on their control sockets the workers carry what is open to its end, then leave."""
    with pair.call("echo") as connection:
        assert talk(connection)
        pair.near.close_control()
        pair.far.close_control()
        wait_refusing(pair.near.ports[f"default/echo:{SERVICE_PORT}"])
        wait_refusing(pair.far.tunnel_port, address=pair.far.address)
        assert talk(connection)
    assert pair.near.wait_exit() == 0
    assert pair.far.wait_exit() == 0


def test_sigterm_ends_idle_workers(pair: Pair) -> None:
    """A worker with nothing open leaves on SIGTERM, without an error."""
    assert reaches(pair)
    for worker in (pair.near, pair.far):
        worker.terminate()
        assert worker.wait_exit() == 0


def test_death_of_the_far_worker_ends_its_connections(pair: Pair) -> None:
    """When the far process is killed, its caller's connection ends instead of hanging."""
    with pair.call("echo") as connection:
        assert talk(connection)
        pair.far.process.kill()
        assert is_closed(connection)
    assert not reaches(pair)

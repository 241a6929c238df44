import socket
from collections.abc import Callable
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.outbound_connection import OutboundConnection
from node_proxy.dataplane.tables import NO_POLICY
from node_proxy.dataplane.tcp_policy import most_attempts
from node_proxy.errors import DialError, HandshakeError, NodeProxyError
from node_proxy.tunnel.handlers import TUNNEL_CLOSED
from node_proxy.tunnel.http2 import CANCEL, REFUSED_STREAM
from tests.fakes.eventually import eventually
from tests.fakes.outbound_pool import IdleSocket
from tests.fakes.relay_tunnel import RelayTunnel
from tests.fakes.tcp import Reader, tcp_pair
from tests.integration.certificates import server_name
from tests.integration.snapshots import endpoint
from tests.node_proxy.dataplane.source import API, WEB, Source, endpoints, settle, source


class TestAsking:
    async def test_open_tunnel_is_asked_at_once(self) -> None:
        """With a tunnel in the pool the CONNECT goes out within the call."""
        async with source() as at:
            (api,) = endpoints(1)
            at.open_tunnels(api)
            at.call(api)
            assert at.pool.open[api.address].opened == ["10.77.0.2:8080"]

    async def test_tunnel_is_opened_where_there_is_none(self) -> None:
        """Without one the connection waits for the pool, with the key of caller and endpoint."""
        async with source() as at:
            (api,) = endpoints(1)
            at.call(api)
            await settle()
            (key,) = at.pool.asked
            assert (key.address, key.port, key.source, key.destination, key.server_name) == (
                *("10.77.0.2", 15008, WEB.text, API),
                server_name(API),
            )
            assert at.pool.open[api.address].opened == ["10.77.0.2:8080"]

    async def test_ipv6_authority(self) -> None:
        """An IPv6 address stands in brackets."""
        async with source() as at:
            api = endpoint("api-0", "fd00::2", 15008, 8080, identity=API)
            at.open_tunnels(api)
            at.call(api)
            assert at.pool.open["fd00::2"].opened == ["[fd00::2]:8080"]

    @pytest.mark.parametrize(
        ("peer", "said"),
        [
            (("10.77.0.1", 4711), [(b"forwarded", b'for="10.77.0.1:4711"')]),
            (("fd77::1", 4711, 0, 0), [(b"forwarded", b'for="[fd77::1]:4711"')]),
            (("127.0.0.1", 4711), []),
            (("::1", 4711, 0, 0), []),
            ("", []),
            (None, []),
        ],
    )
    async def test_callers_address(self, peer: object, said: list[tuple[bytes, bytes]]) -> None:
        """The peer is told the caller's own address, unless that leads to nobody outside this host."""
        async with source() as at:
            (api,) = endpoints(1)
            at.open_tunnels(api)
            at.call(api, sock=IdleSocket(peer).as_socket())
            assert at.pool.open[api.address].said == said

    async def test_nobody_to_ask(self) -> None:
        """A service without endpoints is refused with a reset, and says so."""
        async with source() as at:
            sock = at.call()
            assert sock.state == "aborted"
            assert at.refusals == [("no_endpoint", "no endpoint of default/api:80: none is registered")]
            at.assert_balanced()

    async def test_accepted(self) -> None:
        """After the acceptance bytes flow, and the end is logged with who, where and how much."""
        async with source() as at:
            (api,) = endpoints(1)
            at.open_tunnels(api)
            near, caller = tcp_pair()
            with caller:
                at.call(api, sock=near)
                _, tunnel, stream_id = at.next_asked()
                tunnel.handlers[stream_id].on_accepted()
                caller.send(b"question")
                await eventually(lambda: tunnel.sent == b"question")
                tunnel.handlers[stream_id].on_data(memoryview(b"answer"))
                tunnel.handlers[stream_id].on_ended()
                caller.shutdown(socket.SHUT_WR)
                await eventually(lambda: at.stage.logged("connection closed"))
                assert Reader(caller).read() == b"answer"
            (line,) = at.stage.logged("connection closed")
            assert (line["source"], line["identity"], line["endpoint"]) == (WEB.text, API, "10.77.0.2:8080")
            assert (line["bytes_sent"], line["bytes_received"], line["outcome"]) == (8, 6, "done")
            at.assert_balanced()

    async def test_nothing_is_read_before_the_acceptance(self) -> None:
        """The caller's bytes stay in its socket until a peer has accepted: every failure may be retried."""
        async with source() as at:
            first, second = endpoints(2)
            at.open_tunnels(first, second)
            near, caller = tcp_pair()
            with caller:
                caller.send(b"question")
                at.call(first, second, sock=near)
                at.refuse(503, "dial_failed")
                _, tunnel, stream_id = at.next_asked()
                tunnel.handlers[stream_id].on_accepted()
                await eventually(lambda: tunnel.sent == b"question")
                tunnel.handlers[stream_id].on_reset(CANCEL)


class TestRefusals:
    async def test_dial_failure_goes_to_another_endpoint(self) -> None:
        """503: the endpoint is ejected, another one is asked, and its acceptance counts."""
        async with source() as at:
            both = endpoints(2)
            at.open_tunnels(*both)
            at.call(*both)
            failed = at.refuse(503, "dial_failed")
            address, _, _ = at.next_asked()
            assert address != failed
            assert [at.ejected(each) for each in both] == [each.address == failed for each in both]

    @pytest.mark.parametrize("status", [404, 429, 502, 504])
    async def test_other_answers_worth_a_retry(self, status: int) -> None:
        """Answers that another endpoint may give differently are retried, and eject nobody."""
        async with source() as at:
            both = endpoints(2)
            at.open_tunnels(*both)
            at.call(*both)
            at.refuse(status, "whatever")
            assert len(at.asked) == 1
            assert not any(at.ejected(each) for each in both)

    @pytest.mark.parametrize("status", [400, 403, 405, 500])
    async def test_refusal_is_final(self, status: int) -> None:
        """A refusal that is the same everywhere resets the caller, and the log has the peer's words."""
        async with source() as at:
            both = endpoints(2)
            at.open_tunnels(*both)
            sock = at.call(*both)
            at.refuse(status, "whatever")
            assert sock.state == "aborted"
            assert at.asked == []
            reason = "denied" if status == 403 else "refused"
            assert at.refusals == [(reason, f"{status} whatever")]
            assert at.stage.counted(telemetry.STREAMS_REFUSED, reason=reason, workload="default/api") == 1
            at.assert_balanced()

    async def test_denial_is_told(self) -> None:
        """The policy and the decision that a peer names are fields of the log and no labels of a metric."""
        async with source() as at:
            (api,) = endpoints(1)
            at.open_tunnels(api)
            at.call(api)
            at.refuse(403, "denied; policy=default/no-web; id=0a1b2c3d-7")
            (line,) = at.stage.logged("stream refused")
            assert (line["reason"], line["policy"], line["id"]) == ("denied", "default/no-web", "0a1b2c3d-7")
            counted = {"side": "source", "policy": "", "source": WEB.text, "destination": "default/api"}
            assert at.stage.counted(telemetry.DENIALS, **counted) == 1

    @pytest.mark.parametrize(
        "reason", ["denied; policy=a b; id=0a1b2c3d-7", "x; policy=default/p; id=1", "z" * 9000]
    )
    async def test_denial_in_other_words(self, reason: str) -> None:
        """What is not exactly of our form gives no fields, and no more of it is logged than is enough."""
        async with source() as at:
            (api,) = endpoints(1)
            at.open_tunnels(api)
            at.call(api)
            at.refuse(403, reason)
            (line,) = at.stage.logged("stream refused")
            assert (line["reason"], line["policy"], line["id"]) == ("denied", "", "")
            assert line["detail"] == f"403 {reason[:256]}"

    async def test_refusal_without_a_reason(self) -> None:
        """A peer that gives no reason is refused all the same."""
        async with source() as at:
            (api,) = endpoints(1)
            at.open_tunnels(api)
            at.call(api)
            at.refuse(403, "")
            assert at.refusals == [("denied", "403 ")]

    async def test_bug_leaves_the_books_right(self) -> None:
        """A bug while a tunnel is opened ends that connection alone, and nothing of it stays counted."""
        async with source() as at:
            (api,) = endpoints(1)
            at.pool.failing[api.address] = ZeroDivisionError("bug")
            sock = at.call(api)
            await settle()
            assert sock.state == "aborted"
            assert at.stage.counted(telemetry.CRASHES, part="task") == 1
            at.assert_balanced()

    async def test_peers_choose_no_labels(self) -> None:
        """Whatever a peer gives as its reason, the metrics' labels are ours."""
        async with source() as at:
            (api,) = endpoints(1)
            at.open_tunnels(api)
            at.call(api)
            at.refuse(403, "label-of-the-peer; id=1")
            counted = at.stage.counted(telemetry.STREAMS_REFUSED, reason="denied", workload="default/api")
            assert counted == 1

    async def test_all_endpoints_refuse(self) -> None:
        """When nobody is left the caller is reset, and the log says why, endpoint by endpoint."""
        async with source() as at:
            both = endpoints(2)
            at.open_tunnels(*both)
            sock = at.call(*both)
            at.refuse(503, "dial_failed")
            at.refuse(503, "dial_failed")
            assert sock.state == "aborted"
            ((reason, detail),) = at.refusals
            assert reason == "no_endpoint"
            assert "10.77.0.2:8080: 503 dial_failed" in detail
            assert "10.77.0.3:8080: 503 dial_failed" in detail
            at.assert_balanced()

    async def test_attempts_are_bounded(self) -> None:
        """However many endpoints there are, a caller waits for a few only."""
        async with source() as at:
            many = endpoints(most_attempts(NO_POLICY) + 5)
            at.open_tunnels(*many)
            sock = at.call(*many)
            for _ in range(most_attempts(NO_POLICY)):
                at.refuse(503, "dial_failed")
            assert sock.state == "aborted"
            assert at.asked == []
            at.assert_balanced()


class TestBrokenTunnels:
    @pytest.mark.parametrize("code", [TUNNEL_CLOSED, REFUSED_STREAM])
    async def test_same_endpoint_may_be_asked_again(self, code: int) -> None:
        """A peer that restarts or drains did nothing with the stream: on a new tunnel it may accept."""
        async with source() as at:
            (api,) = endpoints(1)
            at.open_tunnels(api)
            at.call(api)
            at.reset(code)
            assert at.next_asked()[0] == api.address
            assert not at.ejected(api)

    async def test_same_endpoint_is_not_asked_for_ever(self) -> None:
        """A peer whose tunnels keep breaking uses up the attempts."""
        async with source() as at:
            (api,) = endpoints(1)
            at.open_tunnels(api)
            sock = at.call(api)
            for _ in range(most_attempts(NO_POLICY)):
                at.reset(TUNNEL_CLOSED)
            assert sock.state == "aborted"
            at.assert_balanced()

    async def test_another_reset_is_a_failure_of_the_endpoint(self) -> None:
        """Any other reset goes on to another endpoint only."""
        async with source() as at:
            (api,) = endpoints(1)
            at.open_tunnels(api)
            sock = at.call(api)
            at.reset(CANCEL)
            assert sock.state == "aborted"
            at.assert_balanced()

    @pytest.mark.parametrize(
        "error",
        # Made anew by each test: one that is raised keeps everything that its traceback has seen.
        [
            partial(DialError, "10.77.0.2", 15008, "refused"),
            partial(HandshakeError, "unknown CA", reason="unknown_ca"),
        ],
        ids=["connect", "handshake"],
    )
    async def test_tunnel_that_cannot_be_opened(self, error: Callable[[], NodeProxyError]) -> None:
        """An endpoint without a tunnel is ejected, and another one asked."""
        async with source() as at:
            first, second = endpoints(2)
            at.pool.failing = {first.address: error()}
            at.open_tunnels(second)
            at.call(first)
            at.call(first, second)
            await settle()
            assert at.ejected(first)
            assert at.next_asked()[0] == second.address

    async def test_tunnel_that_breaks_under_the_request(self) -> None:
        """When sending the request finds the tunnel broken, the next attempt is the one that counts."""
        async with source() as at:
            (api,) = endpoints(1)
            breaking = BreaksOnOpen(lambda: at.pool.open.update({api.address: RelayTunnel()}))
            at.pool.open[api.address] = breaking
            at.call(api)
            _, tunnel, stream_id = at.next_asked()
            assert tunnel is not breaking
            (connection,) = at.outbound.shared.answers._waiting
            connection.timed_out()
            assert tunnel.resets == [(stream_id, CANCEL)]
            at.assert_balanced()


class BreaksOnOpen(RelayTunnel):
    """A tunnel that turns out to be closed when a stream is opened on it."""

    def __init__(self, replace: Callable[[], None]) -> None:
        super().__init__()
        self._replace = replace

    def open_stream(self, authority: str, handler: "object", headers: "object" = ()) -> int:
        """Break: the handler hears it before the call returns."""
        assert isinstance(handler, OutboundConnection)
        self._replace()
        handler.on_reset(TUNNEL_CLOSED)
        return 99


class TestTimeout:
    async def test_silent_peer(self) -> None:
        """A peer that does not answer: the stream is reset, the endpoint ejected, another one asked."""
        async with source() as at:
            both = endpoints(2)
            at.open_tunnels(*both)
            at.call(*both)
            address, tunnel, stream_id = at.next_asked()
            (connection,) = at.outbound.shared.answers._waiting
            connection.timed_out()
            assert tunnel.resets == [(stream_id, CANCEL)]
            assert at.next_asked()[0] != address
            assert sum(at.ejected(each) for each in both) == 1


ANSWERS = st.sampled_from(
    (200, 403, 404, 429, 503, "closed", "refused stream", "cancel", "timeout", "no tunnel")
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ANSWERS, max_size=8), st.integers(0, 5))
def test_books_balance_whatever_happens(answers: list[int | str], count: int) -> None:
    """After any sequence of answers, loads, clocks and gauges are back where they were."""

    async def run() -> None:
        async with source() as at:
            all_of_them = endpoints(count)
            near, caller = tcp_pair()
            with caller:
                at.call(*all_of_them, sock=near)
                for answer in answers:
                    await settle()
                    if not at.asked:
                        break
                    _answer(at, answer)
                _end_all(at)
            await settle()
            _end_all(at)
            near.close()
            at.assert_balanced()

    trio.run(run)


def _answer(at: Source, answer: int | str) -> None:
    match answer:
        case 200:
            _, tunnel, stream_id = at.next_asked()
            tunnel.handlers[stream_id].on_accepted()
        case int(status):
            at.refuse(status, "reason")
        case "closed":
            at.reset(TUNNEL_CLOSED)
        case "refused stream":
            at.reset(REFUSED_STREAM)
        case "cancel":
            at.reset(CANCEL)
        case "timeout":
            (connection,) = at.outbound.shared.answers._waiting
            connection.timed_out()
        case _:
            address, tunnel, _ = at.next_asked()
            tunnel.has_capacity = False
            at.pool.failing[address] = DialError(address, 15008, "refused")
            at.reset(TUNNEL_CLOSED)


def _end_all(at: Source) -> None:
    while at.asked:
        at.refuse(403, "end")
    for tunnel in at.pool.open.values():
        for stream_id in list(tunnel.handlers):
            tunnel.handlers.pop(stream_id).on_reset(CANCEL)

import ssl

import pytest

from node_proxy.errors import RemoteProtocolError, TunnelClosed
from node_proxy.tunnel.connection import TunnelConnection
from node_proxy.tunnel.events import PeerDraining, StreamAccepted, StreamEnded, StreamRequested, StreamReset
from node_proxy.tunnel.handlers import TUNNEL_CLOSED
from node_proxy.tunnel.http2 import CANCEL, REFUSED_STREAM, Role
from tests.fakes.driven_tunnel import READABLE, connected
from tests.fakes.link import AUTHORITY, data, header_frame
from tests.fakes.stream_handler import RecordingHandler
from tests.fakes.tls import FIRST_FD

CAUSE = TunnelClosed("test")


class Raises(RecordingHandler):
    """A handler with a bug."""

    def on_reset(self, code: int) -> None:
        """Fail."""
        raise ZeroDivisionError(code)


class TestClient:
    def test_request_and_acceptance(self) -> None:
        """The peer hears the request, the stream's handler the acceptance."""
        driven = connected(Role.CLIENT)
        handler = RecordingHandler()
        stream_id = driven.tunnel.open_stream(AUTHORITY, handler)
        driven.to_peer()
        assert driven.peer.heard == [StreamRequested(stream_id, AUTHORITY, ())]
        driven.peer.protocol.accept_stream(stream_id)
        driven.from_peer()
        assert handler.heard == [("accepted",)]

    def test_refusal_is_the_last_that_is_heard(self) -> None:
        """A refused stream's handler hears why, and nothing when the tunnel closes later."""
        driven = connected(Role.CLIENT)
        handler = RecordingHandler()
        stream_id = driven.tunnel.open_stream(AUTHORITY, handler)
        driven.exchange()
        driven.peer.protocol.refuse_stream(stream_id, 403, "denied")
        driven.exchange()
        driven.tunnel.close(CAUSE)
        assert handler.heard == [("refused", 403, "denied")]

    def test_data_and_end(self) -> None:
        """Payload and END_STREAM are told in order."""
        driven = connected(Role.CLIENT)
        stream_id, handler = driven.open_accepted()
        driven.peer.send(stream_id, b"one")
        driven.peer.send(stream_id, b"two")
        driven.peer.protocol.end_stream(stream_id)
        driven.exchange()
        assert handler.heard == [("data", b"one"), ("data", b"two"), ("ended",)]

    def test_reset_is_the_last_that_is_heard(self) -> None:
        """A stream reset by the peer is forgotten after its handler heard of it."""
        driven = connected(Role.CLIENT)
        stream_id, handler = driven.open_accepted()
        driven.peer.protocol.reset_stream(stream_id, CANCEL)
        driven.exchange()
        driven.tunnel.close(CAUSE)
        assert handler.heard == [("reset", CANCEL)]

    def test_own_reset_is_not_told(self) -> None:
        """Who resets a stream hears nothing more of it."""
        driven = connected(Role.CLIENT)
        stream_id, handler = driven.open_accepted()
        driven.peer.send(stream_id, b"late")
        driven.tunnel.reset_stream(stream_id, CANCEL)
        driven.exchange()
        driven.tunnel.close(CAUSE)
        assert handler.heard == []
        assert driven.peer.heard[-1] == StreamReset(stream_id, CANCEL)

    def test_payload_is_framed(self) -> None:
        """Payload behind room for a header goes out as one frame."""
        driven = connected(Role.CLIENT)
        stream_id, _ = driven.open_accepted()
        driven.send(stream_id, b"payload")
        driven.tunnel.end_stream(stream_id)
        driven.to_peer()
        assert driven.peer.heard[-2:] == [data(stream_id, b"payload"), StreamEnded(stream_id)]

    def test_delivery_credits_the_peer(self) -> None:
        """What a handler says was delivered, the peer may send again."""
        driven = connected(Role.CLIENT)
        stream_id, handler = driven.open_accepted()
        sent = driven.peer.send_allowed(stream_id, bytes(10**6))
        driven.exchange()
        assert len(handler.payload) == sent
        assert driven.peer.protocol.sendable(stream_id) == 0
        driven.tunnel.delivered(stream_id, sent, prompt=True)
        driven.exchange()
        assert driven.peer.send_allowed(stream_id, bytes(10**6)) == sent


class TestServer:
    def test_request_is_handed_on(self) -> None:
        """A CONNECT reaches whoever answers them."""
        driven = connected(Role.SERVER)
        stream_id = driven.peer.protocol.open_stream(AUTHORITY)
        driven.exchange()
        assert driven.requests == [StreamRequested(stream_id, AUTHORITY, ())]

    def test_accept(self) -> None:
        """An accepted stream's payload reaches its handler."""
        driven = connected(Role.SERVER)
        stream_id, handler = driven.requested()
        driven.tunnel.accept_stream(stream_id)
        driven.exchange()
        assert driven.peer.heard == [StreamAccepted(stream_id)]
        driven.peer.send(stream_id, b"question")
        driven.exchange()
        assert handler.heard == [("data", b"question")]

    def test_refused_stream_is_forgotten(self) -> None:
        """A refused stream's handler hears nothing more."""
        driven = connected(Role.SERVER)
        stream_id, handler = driven.requested()
        driven.tunnel.refuse_stream(stream_id, 503, "dial_failed")
        driven.exchange()
        driven.tunnel.close(CAUSE)
        assert handler.heard == []

    def test_rejected_request_is_reported(self) -> None:
        """A request that is no CONNECT is told to whoever logs such things."""
        driven = connected(Role.SERVER)
        get = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"api"), (b":path", b"/")]
        driven.tls.incoming += header_frame(1, get, end_stream=True)
        driven.poller.ready(FIRST_FD, READABLE)
        assert [rejected.status for rejected in driven.rejected] == [405]

    def test_another_handler_may_take_over(self) -> None:
        """From `set_handler` on the new handler hears, and the old one does not."""
        driven = connected(Role.SERVER)
        stream_id, first = driven.requested()
        second = RecordingHandler()
        driven.tunnel.set_handler(stream_id, second)
        driven.peer.send(stream_id, b"early")
        driven.exchange()
        assert (first.heard, second.heard) == ([], [("data", b"early")])


class TestPeerDrains:
    def test_unseen_streams_are_refused(self) -> None:
        """A stream above the GOAWAY's last one may be tried elsewhere; those below go on."""
        driven = connected(Role.CLIENT)
        seen, first = driven.open_accepted()
        driven.peer.protocol.drain()
        second = RecordingHandler()
        driven.tunnel.open_stream(AUTHORITY, second)
        driven.from_peer()
        assert second.heard == [("reset", REFUSED_STREAM)]
        driven.peer.send(seen, b"still here")
        driven.exchange()
        assert first.heard == [("data", b"still here")]

    def test_no_new_streams(self) -> None:
        """A tunnel whose peer drains takes no more streams."""
        driven = connected(Role.CLIENT)
        driven.peer.protocol.drain()
        driven.exchange()
        assert not driven.tunnel.has_capacity

    def test_server_keeps_its_streams(self) -> None:
        """A client's GOAWAY speaks of streams that we opened, and a server opens none."""
        driven = connected(Role.SERVER)
        stream_id, handler = driven.requested()
        driven.tunnel.accept_stream(stream_id)
        driven.peer.protocol.drain()
        driven.peer.send(stream_id, b"on")
        driven.exchange()
        assert handler.heard == [("data", b"on")]

    def test_drain_tells_the_peer(self) -> None:
        """Draining sends GOAWAY, and open streams go on."""
        driven = connected(Role.SERVER)
        stream_id, handler = driven.requested()
        driven.tunnel.drain()
        driven.exchange()
        assert driven.peer.heard == [PeerDraining(stream_id, 0)]
        driven.peer.send(stream_id, b"on")
        driven.exchange()
        assert handler.heard == [("data", b"on")]


class TestClose:
    def test_tells_every_handler_once(self) -> None:
        """Each open stream's handler hears that the tunnel is gone, whoever closes how often."""
        driven = connected(Role.CLIENT)
        handlers = [driven.open_accepted()[1] for _ in range(3)]
        driven.tunnel.close(CAUSE)
        driven.tunnel.close(TunnelClosed("again"))
        assert [handler.heard for handler in handlers] == [[("reset", TUNNEL_CLOSED)]] * 3
        assert driven.tunnel.closed is CAUSE

    def test_lets_go_of_the_socket(self) -> None:
        """A closed tunnel is not watched any more, and its socket is closed."""
        driven = connected(Role.CLIENT)
        driven.tunnel.close(CAUSE)
        assert driven.tls.closed
        assert driven.poller.watched == {}
        assert driven.tunnel.ended.is_set()

    def test_orders_after_the_close_do_nothing(self) -> None:
        """A handler that acts late finds a tunnel without room and no error."""
        driven = connected(Role.CLIENT)
        stream_id, handler = driven.open_accepted()
        driven.tunnel.close(CAUSE)
        assert driven.tunnel.sendable(stream_id) == 0
        assert not driven.tunnel.has_capacity
        driven.tunnel.end_stream(stream_id)
        driven.tunnel.reset_stream(stream_id, CANCEL)
        driven.tunnel.delivered(stream_id, 10**6, prompt=True)
        driven.tunnel.drain()
        assert handler.heard == [("reset", TUNNEL_CLOSED)]

    def test_growth_goes_back_to_the_budget(self) -> None:
        """Window growth of streams that end with their tunnel is not lost to the worker."""
        driven = connected(Role.CLIENT)
        budget = driven.tunnel.protocol._budget
        free = budget.free
        stream_id, _ = driven.open_accepted()
        for _ in range(10):
            sent = driven.peer.send_allowed(stream_id, bytes(100_000))
            driven.exchange()
            driven.tunnel.delivered(stream_id, sent, prompt=True)
            driven.exchange()
        assert budget.free < free
        driven.tunnel.close(CAUSE)
        assert budget.free == free

    def test_peer_that_closes(self) -> None:
        """End of file closes the tunnel."""
        driven = connected(Role.CLIENT)
        _, handler = driven.open_accepted()
        driven.tls.at_end = b""
        driven.poller.ready(FIRST_FD, READABLE)
        assert handler.heard == [("reset", TUNNEL_CLOSED)]
        assert str(driven.tunnel.closed) == "the peer closed the connection"

    def test_connection_that_breaks(self) -> None:
        """An error in reading closes the tunnel and says what it was."""
        driven = connected(Role.CLIENT)
        driven.tls.at_end = ConnectionResetError("reset by peer")
        driven.poller.ready(FIRST_FD, READABLE)
        assert "reset by peer" in str(driven.tunnel.closed)

    def test_connection_that_breaks_in_sending(self) -> None:
        """An error in sending closes the tunnel; the caller is told by its handler."""
        driven = connected(Role.CLIENT)
        stream_id, handler = driven.open_accepted()
        driven.tls.send_error = BrokenPipeError("gone")
        driven.send(stream_id, b"payload")
        assert handler.heard == [("reset", TUNNEL_CLOSED)]

    def test_protocol_violation(self) -> None:
        """A peer that breaks HTTP/2 gets a GOAWAY with the reason before the close."""
        driven = connected(Role.SERVER)
        driven.tls.incoming += b"\0\0\x01\x06\0\0\0\0\0x"
        driven.poller.ready(FIRST_FD, READABLE)
        assert isinstance(driven.tunnel.closed, RemoteProtocolError)
        driven.to_peer()
        assert driven.peer.heard == [PeerDraining(0, driven.tunnel.closed.code)]

    def test_nothing_is_dispatched_after_the_close(self) -> None:
        """What lies in the buffer behind the frame that made a handler close the tunnel is not told."""
        driven = connected(Role.SERVER)
        stream_id, handler = driven.requested()
        asked: list[StreamRequested] = []

        def close(tunnel: TunnelConnection, request: StreamRequested) -> None:
            asked.append(request)
            tunnel.close(CAUSE)

        driven.tunnel._on_request = close
        first = driven.peer.protocol.open_stream(AUTHORITY)
        driven.peer.protocol.open_stream(AUTHORITY)
        driven.peer.send(stream_id, b"behind")
        driven.exchange()
        assert [request.stream_id for request in asked] == [first]
        assert handler.heard == [("reset", TUNNEL_CLOSED)]

    def test_handler_that_raises_at_the_close(self) -> None:
        """A bug in one handler does not keep the others from hearing of the close."""
        driven = connected(Role.CLIENT)
        _, first = driven.open_accepted()
        bug = Raises()
        driven.tunnel.open_stream(AUTHORITY, bug)
        _, last = driven.open_accepted()
        with pytest.raises(ZeroDivisionError) as raised:
            driven.tunnel.close(CAUSE)
        # As the reactor does.
        driven.tunnel.on_crash(raised.value)
        assert first.heard == last.heard == [("reset", TUNNEL_CLOSED)]

    def test_crash(self) -> None:
        """After a bug in a handler the tunnel is closed, and the bug named."""
        driven = connected(Role.CLIENT)
        driven.tunnel.on_crash(ZeroDivisionError("division by zero"))
        assert "division by zero" in str(driven.tunnel.closed)


def test_alert_that_a_failed_write_would_hide() -> None:
    """When sending fails, the TLS alert that the peer left behind is the cause that is told."""
    driven = connected(Role.CLIENT)
    stream_id, _ = driven.open_accepted()
    driven.tls.send_error = BrokenPipeError("gone")
    driven.tls.at_end = ssl.SSLError("TLSV13_ALERT_CERTIFICATE_REQUIRED")
    driven.send(stream_id, b"payload")
    assert "CERTIFICATE_REQUIRED" in str(driven.tunnel.closed)

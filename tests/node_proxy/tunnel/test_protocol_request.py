"""RFC 9113 section 8.5: CONNECT and its answers, between two of ours; and the handshake before them."""

import hyperframe.frame
import pytest

from node_proxy.errors import LocalProtocolError
from node_proxy.tunnel.events import (
    Established,
    PingAcknowledged,
    RequestRejected,
    StreamAccepted,
    StreamRefused,
    StreamRequested,
    StreamReset,
    WindowOpened,
)
from node_proxy.tunnel.http2 import CANCEL, MAX_CONCURRENT_STREAMS, Role
from tests.fakes.link import AUTHORITY, End, Link, established, header_frame


class TestHandshake:
    def test_establishes_both_ends(self) -> None:
        """Each end is established by the other's SETTINGS."""
        client, server = Link().news()
        assert client[0] == server[0] == Established()

    def test_client_has_no_capacity_before_settings(self) -> None:
        """No stream may be opened before the peer has shown that it accepted us."""
        client = End(Role.CLIENT)
        assert not client.protocol.has_capacity
        with pytest.raises(LocalProtocolError):
            client.protocol.open_stream(AUTHORITY)

    def test_connection_window_is_opened_at_once(self) -> None:
        """The connection's window is raised above the default, so that streams do not block each other."""
        client, _ = Link().news()
        assert client == [Established(), WindowOpened(0)]

    def test_server_never_opens_streams(self) -> None:
        """CONNECTs come from clients alone."""
        link = established()
        with pytest.raises(LocalProtocolError):
            link.server.protocol.open_stream(AUTHORITY)

    def test_later_settings_establish_nothing(self) -> None:
        """SETTINGS that change no window are no event."""
        link = established()
        assert link.client.receive(hyperframe.frame.SettingsFrame(0).serialize()) == []

    def test_ping(self) -> None:
        """A PING is answered by the other end without its driver."""
        link = established()
        link.client.protocol.ping()
        assert link.news() == ([PingAcknowledged()], [])


class TestRequest:
    def test_accept(self) -> None:
        """A CONNECT reaches the server, its 200 reaches the client."""
        link = established()
        stream_id = link.request()
        link.server.protocol.accept_stream(stream_id)
        assert link.news() == ([StreamAccepted(stream_id)], [])

    def test_headers_reach_the_server(self) -> None:
        """What the client adds to its CONNECT is given with the request."""
        link = established()
        stream_id = link.client.protocol.open_stream(AUTHORITY, [(b"traceparent", b"00-1-2-01")])
        assert link.news()[1] == [StreamRequested(stream_id, AUTHORITY, ((b"traceparent", b"00-1-2-01"),))]

    def test_refuse_tells_status_and_reason(self) -> None:
        """A refusal carries the status and the reason header."""
        link = established()
        stream_id = link.request()
        link.server.protocol.refuse_stream(stream_id, 403, "denied; policy=default/no-web; id=7")
        client, server = link.news()
        assert client == [StreamRefused(stream_id, 403, "denied; policy=default/no-web; id=7")]
        assert server == []

    def test_refused_stream_is_gone_at_both_ends(self) -> None:
        """Nothing is kept of a refused stream."""
        link = established()
        stream_id = link.request()
        link.server.protocol.refuse_stream(stream_id, 404, "no_workload")
        link.deliver()
        assert link.client.protocol.open_streams == link.server.protocol.open_streams == 0

    def test_refusal_crosses_payload(self) -> None:
        """Payload and END_STREAM sent before the refusal was heard harm nobody."""
        link = established()
        stream_id = link.request()
        link.server.protocol.refuse_stream(stream_id, 503, "dial_failed")
        link.client.send(stream_id, b"early")
        link.client.protocol.end_stream(stream_id)
        assert link.news() == ([StreamRefused(stream_id, 503, "dial_failed")], [])

    def test_refusal_of_a_request_that_has_ended(self) -> None:
        """A client that sent END_STREAM at once can be refused as well."""
        link = established()
        stream_id = link.client.protocol.open_stream(AUTHORITY)
        link.client.protocol.end_stream(stream_id)
        link.news()
        link.server.protocol.refuse_stream(stream_id, 403, "denied")
        assert link.news()[0] == [StreamRefused(stream_id, 403, "denied")]

    @pytest.mark.parametrize("status", [200, 204, 299])
    def test_any_2xx_accepts(self, status: int) -> None:
        """Every 2xx answer to a CONNECT means that it stands (RFC 9110 section 9.3.6)."""
        link = established()
        stream_id = link.request()
        answer = header_frame(stream_id, [(b":status", b"%d" % status)])
        assert link.client.receive(answer) == [StreamAccepted(stream_id)]

    def test_informational_answer_is_no_answer(self) -> None:
        """A 1xx before the answer changes nothing."""
        link = established()
        stream_id = link.request()
        assert link.client.receive(header_frame(stream_id, [(b":status", b"103")])) == []
        link.server.protocol.accept_stream(stream_id)
        assert link.news()[0] == [StreamAccepted(stream_id)]

    def test_answer_after_the_client_gave_up(self) -> None:
        """A 200 that crosses the client's reset is late and harmless, at both ends."""
        link = established()
        stream_id = link.request()
        link.server.protocol.accept_stream(stream_id)
        link.client.protocol.reset_stream(stream_id)
        assert link.news() == ([], [StreamReset(stream_id, CANCEL)])

    def test_late_answer_after_other_streams(self) -> None:
        """The same when streams opened since have made h2 forget the one given up."""
        link = established()
        stream_id = link.request()
        link.server.protocol.accept_stream(stream_id)
        link.client.protocol.reset_stream(stream_id)
        link.client.protocol.open_stream(AUTHORITY)
        client, server = link.news()
        assert client == []
        assert server[0] == StreamReset(stream_id, CANCEL)

    def test_answering_a_stream_that_is_gone(self) -> None:
        """Accepting or refusing what the client gave up meanwhile does nothing."""
        link = established()
        stream_id = link.request()
        link.client.protocol.reset_stream(stream_id)
        link.deliver()
        link.server.protocol.accept_stream(stream_id)
        link.server.protocol.refuse_stream(stream_id, 503, "dial_failed")
        assert link.server.take_outbox() == b""

    def test_capacity(self) -> None:
        """A client opens no more streams than the peer allows, and one more for each that ends."""
        link = established()
        streams = [link.client.protocol.open_stream(AUTHORITY) for _ in range(MAX_CONCURRENT_STREAMS)]
        link.deliver()
        assert not link.client.protocol.has_capacity
        link.client.protocol.reset_stream(streams[0])
        assert link.client.protocol.has_capacity

    def test_capacity_follows_settings(self) -> None:
        """A peer that allows one stream gets one."""
        link = established()
        settings = {hyperframe.frame.SettingsFrame.MAX_CONCURRENT_STREAMS: 1}
        link.client.receive(hyperframe.frame.SettingsFrame(0, settings=settings).serialize())
        link.client.protocol.open_stream(AUTHORITY)
        assert not link.client.protocol.has_capacity

    def test_no_capacity_when_ids_are_used_up(self) -> None:
        """A tunnel whose stream ids have run out asks for another tunnel instead of failing."""
        link = established()
        link.client.protocol._highest_own_stream = 2**31 - 3
        last = link.client.protocol.open_stream(AUTHORITY)
        assert last == 2**31 - 1
        assert not link.client.protocol.has_capacity

    @pytest.mark.parametrize(
        "headers",
        [
            [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"api"), (b":path", b"/")],
            [
                (b":method", b"CONNECT"),
                (b":protocol", b"websocket"),
                (b":scheme", b"https"),
                (b":authority", b"api"),
                (b":path", b"/"),
            ],
        ],
        ids=["get", "extended-connect"],
    )
    def test_anything_but_connect_is_405(self, headers: list[tuple[bytes, bytes]]) -> None:
        """A request that is no plain CONNECT is answered by the protocol itself, and reported."""
        link = established()
        server = link.server.receive(header_frame(1, headers, end_stream=True))
        assert server == [RequestRejected(1, 405, "method_not_allowed")]
        assert link.server.protocol.open_streams == 0

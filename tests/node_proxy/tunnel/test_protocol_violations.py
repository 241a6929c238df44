"""What a broken or hostile peer may send: RFC 9113 sections 4.2, 4.3, 5.1, 6 and 8.1."""

import hyperframe.frame
import pytest

from node_proxy.tunnel.events import PingAcknowledged, RequestRejected, StreamRequested, StreamReset
from node_proxy.tunnel.frames import FRAME_HEADER, rst_stream
from node_proxy.tunnel.http2 import MAX_FRAME_SIZE, Role
from tests.fakes.hostile import (
    FRAME_SIZE_ERROR,
    PING,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    breaks,
    connect,
    request_headers,
)
from tests.fakes.link import AUTHORITY, End, data, established, header_frame


class TestNeverOpened:
    @pytest.mark.parametrize(
        "frame",
        [
            hyperframe.frame.DataFrame(7, b"who?"),
            hyperframe.frame.DataFrame(7, b""),
            hyperframe.frame.WindowUpdateFrame(7, window_increment=1),
            hyperframe.frame.DataFrame(8, b"a server's own"),
        ],
        ids=["data", "empty-data", "window-update", "our-own-id"],
    )
    def test_frame_for_a_stream_that_never_was(self, frame: hyperframe.frame.Frame) -> None:
        """A frame for an idle stream ends the connection (section 5.1)."""
        assert breaks(established().server, frame.serialize())

    def test_data_on_stream_zero(self) -> None:
        """DATA belongs to a stream (section 6.1)."""
        frame = hyperframe.frame.DataFrame(2, b"?").serialize()
        assert breaks(established().server, frame[:5] + bytes(4) + frame[9:])

    @pytest.mark.parametrize("flags", [["END_HEADERS"], []], ids=["whole", "begun"])
    def test_headers_on_stream_zero(self, flags: list[str]) -> None:
        """HEADERS belong to a stream (section 6.2), even when their block goes on elsewhere."""
        wire = hyperframe.frame.HeadersFrame(1, request_headers(), flags=flags).serialize()
        assert breaks(established().server, wire[:5] + bytes(4) + wire[9:])

    @pytest.mark.parametrize(
        "wire",
        [
            b"\0\0\x04\x03\0\0\0\0\0" + bytes(4),
            b"\0\0\x05\x02\0\0\0\0\0" + bytes(5),
            b"\0\0\x08\x07\0\0\0\0\x01" + bytes(8),
            b"\0\0\x00\x04\0\0\0\0\x01",
            b"\0\0\x08\x06\0\0\0\0\x01" + bytes(8),
        ],
        ids=["rst-stream", "priority", "goaway", "settings", "ping"],
    )
    def test_stream_and_connection_confused(self, wire: bytes) -> None:
        """Streams' frames name a stream, the connection's frames none (sections 6.3 to 6.8)."""
        link = established()
        assert link.accepted() == 1
        assert breaks(link.server, wire)

    def test_client_that_takes_a_servers_id(self) -> None:
        """A client opens odd streams only (section 5.1.1)."""
        assert breaks(established().server, connect(2))

    def test_server_that_opens_a_stream(self) -> None:
        """A server opens none: push is off."""
        assert breaks(established().client, connect(2))

    def test_ids_that_go_backwards(self) -> None:
        """A stream id is used once (section 5.1.1)."""
        link = established()
        link.server.receive(connect(5))
        assert breaks(link.server, connect(3))


class TestBrokenStream:
    def test_payload_before_the_answer(self) -> None:
        """A server that sends payload before its 200 loses the stream, not the tunnel."""
        link = established()
        stream_id = link.request()
        link.server.send(stream_id, b"eager")
        assert link.news() == (
            [StreamReset(stream_id, PROTOCOL_ERROR)],
            [StreamReset(stream_id, PROTOCOL_ERROR)],
        )
        assert link.accepted() > stream_id

    def test_payload_after_the_end(self) -> None:
        """DATA behind END_STREAM breaks the stream (section 5.1)."""
        link = established()
        stream_id = link.accepted()
        link.client.protocol.end_stream(stream_id)
        link.news()
        late = hyperframe.frame.DataFrame(stream_id, b"late")
        assert link.server.receive(late.serialize()) == [StreamReset(stream_id, STREAM_CLOSED)]

    @pytest.mark.parametrize("status", [b"yes", b"20", b"0200", b"000", b"099", b""])
    def test_status_that_is_none(self, status: bytes) -> None:
        """An answer whose status is not three digits from 100 costs its stream (section 8.1.1)."""
        link = established()
        stream_id = link.request()
        answer = header_frame(stream_id, [(b":status", status)])
        assert link.client.receive(answer) == [StreamReset(stream_id, PROTOCOL_ERROR)]

    def test_informational_answer_that_ends(self) -> None:
        """A 1xx with END_STREAM is malformed (section 8.1)."""
        link = established()
        stream_id = link.request()
        answer = header_frame(stream_id, [(b":status", b"100")], end_stream=True)
        assert link.client.receive(answer) == [StreamReset(stream_id, PROTOCOL_ERROR)]

    def test_headers_that_do_not_end(self) -> None:
        """HEADERS on an accepted stream that are no trailers break it, at either end (section 8.1)."""
        link = established()
        stream_id = link.accepted()
        answer = header_frame(stream_id, [(b":status", b"200")])
        assert link.client.receive(answer) == [StreamReset(stream_id, PROTOCOL_ERROR)]
        assert link.server.receive(connect(stream_id)) == [StreamReset(stream_id, PROTOCOL_ERROR)]

    def test_trailers_after_the_end(self) -> None:
        """HEADERS behind END_STREAM break the stream (section 5.1)."""
        link = established()
        stream_id = link.accepted()
        link.client.protocol.end_stream(stream_id)
        link.news()
        late = connect(stream_id, "END_STREAM")
        assert link.server.receive(late) == [StreamReset(stream_id, STREAM_CLOSED)]

    def test_malformed_request_costs_its_stream(self) -> None:
        """A malformed CONNECT is reset and reported, the tunnel lives (section 8.1.1)."""
        link = established()
        bad = header_frame(1, [(b":method", b"CONNECT"), (b":authority", b"a:1"), (b"Upper", b"1")])
        assert link.server.receive(bad) == [RequestRejected(1, 400, "malformed_request")]
        assert link.server.take_outbox() == rst_stream(1, PROTOCOL_ERROR)
        assert link.server.receive(connect(3)) == [StreamRequested(3, AUTHORITY, ())]

    def test_padding_longer_than_its_frame(self) -> None:
        """Padding that leaves no room for itself ends the connection (section 6.1)."""
        link = established()
        stream_id = link.accepted()
        frame = hyperframe.frame.DataFrame(stream_id, b"x", flags=["PADDED"], pad_length=1).serialize()
        assert breaks(link.server, frame[:FRAME_HEADER] + b"\xff" + frame[FRAME_HEADER + 1 :])

    def test_padded_frame_without_a_length(self) -> None:
        """A padded frame of no bytes ends the connection."""
        link = established()
        stream_id = link.accepted()
        assert breaks(link.server, b"\0\0\0\x00\x08" + stream_id.to_bytes(4, "big"))


class TestFraming:
    @pytest.mark.parametrize(
        "preface",
        [
            b"GET / HTTP/1.1\r\nHost: api\r\n\r\n",
            b"\x16\x03\x01" + bytes(40),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r " + bytes(9),
        ],
        ids=["http1", "tls", "almost"],
    )
    def test_bad_preface(self, preface: bytes) -> None:
        """What does not begin as HTTP/2 does is told off at once (section 3.4)."""
        assert breaks(End(Role.SERVER), preface)

    def test_only_settings_establish(self) -> None:
        """Nothing but SETTINGS establishes a tunnel."""
        server = End(Role.SERVER)
        assert server.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + PING) == []
        assert not server.protocol.has_capacity

    def test_oversized_frame(self) -> None:
        """A frame larger than we advertise is refused by its header, before it is buffered (section 4.2)."""
        header = (MAX_FRAME_SIZE + 1).to_bytes(3, "big") + b"\x00\x00\x00\x00\x00\x01"
        assert breaks(established().server, header, FRAME_SIZE_ERROR)

    def test_largest_frame(self) -> None:
        """A frame as large as we advertise is taken."""
        link = established()
        stream_id = link.accepted()
        frame = hyperframe.frame.DataFrame(stream_id, bytes(MAX_FRAME_SIZE))
        assert link.server.receive(frame.serialize()) == [data(stream_id, bytes(MAX_FRAME_SIZE))]

    @pytest.mark.parametrize(
        ("name", "wire"),
        [
            ("window-update", b"\0\0\x03\x08\0\0\0\0\0" + bytes(3)),
            ("goaway", b"\0\0\x04\x07\0\0\0\0\0" + bytes(4)),
            ("ping", b"\0\0\x07\x06\0\0\0\0\0" + bytes(7)),
            ("settings", b"\0\0\x05\x04\0\0\0\0\0" + bytes(5)),
            ("settings-ack", b"\0\0\x06\x04\x01\0\0\0\0" + b"\0\x04\0\0\0\x01"),
            ("settings-ack-of-the-unknown", b"\0\0\x06\x04\x01\0\0\0\0" + bytes((0xFA,)) * 6),
            ("priority", b"\0\0\x04\x02\0\0\0\0\x01" + bytes(4)),
            ("rst-stream", b"\0\0\x03\x03\0\0\0\0\x01" + bytes(3)),
        ],
    )
    def test_frame_of_wrong_size(self, name: str, wire: bytes) -> None:
        """Frames of fixed size come in that size (section 6)."""
        link = established()
        link.request()
        assert breaks(link.server, wire, FRAME_SIZE_ERROR), name

    @pytest.mark.parametrize(
        "frame",
        [
            PING,
            connect(5),
            hyperframe.frame.DataFrame(1, b"x").serialize(),
            hyperframe.frame.WindowUpdateFrame(1, window_increment=1).serialize(),
            hyperframe.frame.GoAwayFrame(0).serialize(),
        ],
        ids=["ping", "headers", "data", "window-update", "goaway"],
    )
    def test_interrupted_header_block(self, frame: bytes) -> None:
        """Nothing may come between HEADERS and its CONTINUATION (section 4.3), whoever handles it."""
        link = established()
        assert link.accepted() == 1
        link.server.receive(hyperframe.frame.HeadersFrame(3, request_headers()[:5]).serialize())
        assert breaks(link.server, frame)

    def test_continuation_of_another_stream(self) -> None:
        """CONTINUATION continues the stream whose block is open."""
        link = established()
        link.server.receive(hyperframe.frame.HeadersFrame(1, request_headers()[:5]).serialize())
        other = hyperframe.frame.ContinuationFrame(3, request_headers()[5:], flags=["END_HEADERS"])
        assert breaks(link.server, other.serialize())

    def test_continuation_of_nothing(self) -> None:
        """CONTINUATION needs an open block (section 6.10)."""
        frame = hyperframe.frame.ContinuationFrame(1, request_headers(), flags=["END_HEADERS"])
        assert breaks(established().server, frame.serialize())

    def test_header_block_in_parts(self) -> None:
        """A CONNECT in HEADERS and CONTINUATIONs is the same CONNECT."""
        link = established()
        block = request_headers()
        whole = established().server.receive(connect(1))
        parts = [
            hyperframe.frame.HeadersFrame(1, block[:5]),
            hyperframe.frame.ContinuationFrame(1, block[5:9]),
            hyperframe.frame.ContinuationFrame(1, block[9:], flags=["END_HEADERS"]),
        ]
        assert link.server.receive(b"".join(part.serialize() for part in parts)) == whole

    def test_unknown_frames_are_ignored(self) -> None:
        """A frame of a type that nobody has defined is skipped (section 4.1)."""
        link = established()
        assert link.server.receive(b"\0\0\x03\xfa\x00\0\0\0\0" + b"new" + PING) == []
        assert link.news()[0] == [PingAcknowledged()]

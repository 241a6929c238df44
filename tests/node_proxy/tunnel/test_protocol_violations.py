"""What a broken or hostile peer may send: RFC 9113 sections 4.2, 4.3, 5.1, 6 and 10.5."""

from collections.abc import Callable

import hpack
import hyperframe.frame
import pytest

from node_proxy.errors import RemoteProtocolError
from node_proxy.tunnel.calm import CAPACITY, REFILL_PER_SECOND
from node_proxy.tunnel.events import PingAcknowledged, StreamReset
from node_proxy.tunnel.frames import FRAME_HEADER, rst_stream
from node_proxy.tunnel.http2 import MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, REFUSED_STREAM, Role
from tests.fakes.link import AUTHORITY, End, data, established, header_frame

# RFC 9113 section 7.
PROTOCOL_ERROR = 1
STREAM_CLOSED = 5
FRAME_SIZE_ERROR = 6
ENHANCE_YOUR_CALM = 11

PING = hyperframe.frame.PingFrame(0, b"12345678").serialize()
GOAWAY_LENGTH = FRAME_HEADER + 8


def request_headers() -> bytes:
    """Give the header block of a CONNECT."""
    return bytes(hpack.Encoder().encode([(":method", "CONNECT"), (":authority", AUTHORITY)], huffman=False))


def connect(stream_id: int, *flags: str) -> bytes:
    """Give the HEADERS frame of a CONNECT."""
    frame = hyperframe.frame.HeadersFrame(stream_id, request_headers(), flags=["END_HEADERS", *flags])
    return frame.serialize()


def breaks(end: End, wire: bytes, code: int = PROTOCOL_ERROR) -> bool:
    """Whether `wire` ends the connection with `code`, in the error and in a GOAWAY."""
    with pytest.raises(RemoteProtocolError) as raised:
        end.receive(wire)
    output = end.take_outbox()
    goaway = hyperframe.frame.GoAwayFrame(0)
    goaway.parse_body(memoryview(output[-8:]))
    return raised.value.code == goaway.error_code == code and output[-14:-13] == b"\x07"


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

    def test_status_that_is_no_number(self) -> None:
        """An answer whose status is no number is malformed and costs its stream (section 8.1.1)."""
        link = established()
        stream_id = link.request()
        answer = header_frame(stream_id, [(b":status", b"yes")])
        assert link.client.receive(answer) == [StreamReset(stream_id, PROTOCOL_ERROR)]


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


def _flood_of_resets(count: int) -> bytes:
    reset = hyperframe.frame.RstStreamFrame
    return b"".join(
        connect(stream_id) + reset(stream_id, error_code=8).serialize()
        for stream_id in range(3, 3 + 2 * count, 2)
    )


FLOODS: dict[str, Callable[[int], bytes]] = {
    "ping": lambda count: PING * count,
    "ping-answers": lambda count: hyperframe.frame.PingFrame(0, bytes(8), flags=["ACK"]).serialize() * count,
    "settings": lambda count: hyperframe.frame.SettingsFrame(0).serialize() * count,
    "rapid-reset": lambda count: _flood_of_resets(count // 2 + 1),
    "empty-data": lambda count: hyperframe.frame.DataFrame(1, b"").serialize() * count,
    "tiny-window-updates": lambda count: (
        hyperframe.frame.WindowUpdateFrame(1, window_increment=1).serialize() * count
    ),
    "priority": lambda count: hyperframe.frame.PriorityFrame(1, depends_on=0).serialize() * count,
    "unknown": lambda count: b"\0\0\0\xfa\x00\0\0\0\0" * count,
}


class TestFloods:
    @pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
    def test_flood(self, flood: Callable[[int], bytes]) -> None:
        """Frames that cost us and carry nothing are answered with ENHANCE_YOUR_CALM (section 10.5)."""
        link = established()
        link.accepted()
        assert breaks(link.server, flood(int(CAPACITY) + 10), ENHANCE_YOUR_CALM)

    @pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
    def test_the_same_slowly(self, flood: Callable[[int], bytes]) -> None:
        """The same frames at half the rate that is earned back are no flood."""
        link = established()
        link.accepted()
        wire = flood(int(CAPACITY * 1.1))
        position = 0
        while position < len(wire):
            end = position
            for _ in range(100):
                if end < len(wire):
                    end += FRAME_HEADER + int.from_bytes(wire[end : end + 3], "big")
            link.server.now += 2 * 100 / REFILL_PER_SECOND
            link.server.receive(wire[position:end])
            link.server.take_outbox()
            position = end

    def test_client_may_open_all_its_streams_at_once(self) -> None:
        """A thousand streams opened and given up within a moment are no flood."""
        link = established()
        wire = _flood_of_resets(MAX_CONCURRENT_STREAMS)
        link.server.receive(wire)
        assert link.server.protocol.open_streams == 0

    def test_refusals_are_no_flood_to_the_one_who_asked(self) -> None:
        """A client may be refused as fast as it asks: each answer was asked for."""
        link = established()
        for _ in range(int(CAPACITY * 0.6)):
            stream_id = link.client.protocol.open_stream(AUTHORITY)
            link.server.now += 1.0
            link.server.receive(link.client.take_outbox())
            link.server.protocol.refuse_stream(stream_id, 403, "denied")
            link.client.receive(link.server.take_outbox())

    def test_too_many_streams(self) -> None:
        """Streams beyond those we allow are refused, so that they can be tried elsewhere (section 5.1.2)."""
        link = established()
        for stream_id in range(1, 2 * MAX_CONCURRENT_STREAMS + 1, 2):
            link.server.receive(connect(stream_id))
        assert link.server.protocol.open_streams == MAX_CONCURRENT_STREAMS
        link.server.take_outbox()
        excess = 2 * MAX_CONCURRENT_STREAMS + 1
        assert link.server.receive(connect(excess)) == []
        assert link.server.take_outbox() == rst_stream(excess, REFUSED_STREAM)
        assert link.server.protocol.open_streams == MAX_CONCURRENT_STREAMS

    def test_endless_header_list(self) -> None:
        """A header list of more than 16 KiB is refused, however well it compresses (section 10.5.1)."""
        encoder = hpack.Encoder()
        block = encoder.encode([(":method", "CONNECT"), (":authority", AUTHORITY), ("x", "y" * 4000)])
        block += encoder.encode([("x", "y" * 4000)] * 20)
        frame = hyperframe.frame.HeadersFrame(1, bytes(block), flags=["END_HEADERS"])
        assert breaks(established().server, frame.serialize(), ENHANCE_YOUR_CALM)

    def test_endless_continuation(self) -> None:
        """A header block that never ends is cut (CVE-2024-27983 and its kin)."""
        link = established()
        link.server.receive(hyperframe.frame.HeadersFrame(1, request_headers()).serialize())
        part = hyperframe.frame.ContinuationFrame(1, b"").serialize()
        with pytest.raises(RemoteProtocolError):
            link.server.receive(part * int(CAPACITY))

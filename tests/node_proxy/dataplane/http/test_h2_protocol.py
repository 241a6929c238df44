"""RFC 9113 between workloads and their proxy, values in and values out. Classes follow its sections."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from node_proxy.dataplane.http.h2_client_protocol import ClientProtocol
from node_proxy.dataplane.http.h2_events import (
    BodyEnded,
    DataReceived,
    H2Event,
    PeerDraining,
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    StreamBroken,
    WindowOpened,
)
from node_proxy.dataplane.http.h2_protocol import H2Protocol
from node_proxy.dataplane.http.h2_server_protocol import ServerProtocol
from node_proxy.dataplane.http.h2_streams import (
    CONNECTION_WINDOW,
    INITIAL_WINDOW,
    MAX_CONCURRENT_STREAMS,
    MAX_UNREAD,
)
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.message import RequestHead, ResponseHead
from node_proxy.errors import LocalProtocolError, RemoteProtocolError
from node_proxy.tunnel import frames
from node_proxy.tunnel.calm import CAPACITY
from node_proxy.tunnel.http2 import (
    FLOW_CONTROL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
)
from tests.node_proxy.dataplane.http.h2_raw import (
    GET,
    POST,
    PREFACE,
    answered,
    client,
    data,
    feed,
    frame,
    greeted,
    heads,
    join,
    resets,
    sent,
    server,
    settings,
)

_ASK = RequestHead(b"GET", b"/", b"api", [])
_POST = RequestHead(b"POST", b"/", b"api", [], length=None)
_OK = [(b":status", b"200")]
_INITIAL_WINDOW_SIZE, _MAX_FRAME, _MAX_STREAMS = 4, 5, 3


def _joined() -> tuple[ClientProtocol, ServerProtocol]:
    """Give both ends of a connection that have each other's settings."""
    ours, theirs = client(), server()
    join(ours, theirs)
    return ours, theirs


def _requests(events: list[H2Event]) -> list[int]:
    return [event.stream_id for event in events if isinstance(event, RequestReceived)]


def _broken(events: list[H2Event]) -> list[StreamBroken]:
    return [event for event in events if isinstance(event, StreamBroken)]


def _connection_credit(protocol: H2Protocol) -> int:
    """Take a protocol's output; gives the credit that it gave for the connection."""
    return sum(
        int.from_bytes(payload, "big")
        for kind, _, stream, payload in sent(protocol)
        if kind == frames.WINDOW_UPDATE and stream == 0
    )


def _fails(protocol: H2Protocol, received: bytes) -> int:
    """Receive what breaks the connection; gives the code in the GOAWAY."""
    protocol.take_output()
    with pytest.raises(RemoteProtocolError) as error:
        feed(protocol, received)
    goaways = [payload for kind, _, _, payload in sent(protocol) if kind == frames.GOAWAY]
    assert int.from_bytes(goaways[-1][4:8], "big") == error.value.code
    return error.value.code


class TestExchange:
    def test_whole(self) -> None:
        """A request and its answer, with content and trailers both ways, arrive as they were sent."""
        ours, theirs = _joined()
        stream = ours.send_request(_POST, end=False)
        ours.send_data(stream, b"ping", end=False)
        ours.send_end(stream, [(b"x-sum", b"1")])
        _, heard = join(ours, theirs)
        assert [type(event) for event in heard] == [RequestReceived, DataReceived, BodyEnded]
        assert heard[1:] == [DataReceived(1, b"ping"), BodyEnded(1, [(b"x-sum", b"1")])]
        theirs.send_response(1, ResponseHead(103, [(b"link", b"</a>")]), end=False)
        theirs.send_response(1, ResponseHead(200, [(b"a", b"b")]), end=False)
        theirs.send_data(1, b"pong", end=False)
        theirs.send_end(1, [(b"grpc-status", b"0")])
        heard, _ = join(ours, theirs)
        assert heard == [
            ResponseReceived(1, ResponseHead(103, [(b"link", b"</a>")])),
            ResponseReceived(1, ResponseHead(200, [(b"a", b"b")])),
            DataReceived(1, b"pong"),
            BodyEnded(1, [(b"grpc-status", b"0")]),
        ]
        assert (ours.open_streams, theirs.open_streams) == (0, 0)

    def test_many_at_once(self) -> None:
        """Streams have odd ids that grow, and are told apart."""
        ours, theirs = _joined()
        streams = [ours.send_request(_ASK, end=True) for _ in range(3)]
        _, heard = join(ours, theirs)
        assert streams == _requests(heard) == [1, 3, 5]

    def test_large_head(self) -> None:
        """A head of more than a frame arrives whole."""
        ours, theirs = _joined()
        head = RequestHead(b"GET", b"/", b"api", [(b"a", b"b" * 40_000)])
        ours.send_request(head, end=True)
        _, heard = join(ours, theirs)
        assert isinstance(heard[0], RequestReceived)
        assert heard[0].head.fields == head.fields

    @given(st.lists(st.integers(1, 40), max_size=60))
    @hypothesis_settings(max_examples=50)
    def test_any_chunking(self, sizes: list[int]) -> None:
        """However the bytes are cut, they say the same."""
        said = (
            PREFACE
            + settings()
            + heads(POST, end=False)
            + data(b"abc" * 20)
            + heads([(b"x-sum", b"1")])
            + heads(GET, stream=3)
        )
        expected = feed(server(), said)
        protocol, events, position, left = server(), [], 0, b""
        for size in [*sizes, len(said)]:
            left += said[position : position + size]
            position += size
            found, used = protocol.receive(memoryview(left), 0)
            events += found
            left = left[used:]
        assert events == expected


class TestConnection:
    """Sections 3.4, 4 and 5."""

    def test_no_preface(self) -> None:
        """What does not begin with the preface is no HTTP/2."""
        assert _fails(server(), b"GET / HTTP/1.1\r\nhost: a\r\n\r\n") == PROTOCOL_ERROR

    def test_settings_first(self) -> None:
        """SETTINGS come before anything else."""
        assert _fails(server(), PREFACE + heads(GET)) == PROTOCOL_ERROR

    def test_http1_server(self) -> None:
        """A server that answers in HTTP/1.1 is found out by its first bytes."""
        assert _fails(client(), b"HTTP/1.1 400 Bad Request\r\n\r\n") == PROTOCOL_ERROR

    @pytest.mark.parametrize(
        ("said", "code"),
        [
            (frame(frames.DATA, b"x" * 65_537, stream=1), frames.FRAME_SIZE_ERROR),
            (data(b"x", stream=0), PROTOCOL_ERROR),
            (data(b"x", stream=1), PROTOCOL_ERROR),
            (data(b"x", stream=2), PROTOCOL_ERROR),
            (heads(GET, stream=0), PROTOCOL_ERROR),
            (heads(GET, stream=2), PROTOCOL_ERROR),
            (heads(GET, stream=5) + heads(GET, stream=3), PROTOCOL_ERROR),
            (frame(frames.CONTINUATION, b"", stream=1), PROTOCOL_ERROR),
            (frame(frames.HEADERS, b"", stream=1) + data(b""), PROTOCOL_ERROR),
            (frame(frames.HEADERS, b"", stream=1) + heads(GET, stream=3), PROTOCOL_ERROR),
            (frame(frames.HEADERS, b"\x80", stream=1, flags=frames.END_HEADERS), 9),
            (frame(frames.HEADERS, b"\x05", stream=1, flags=frames.PADDED), PROTOCOL_ERROR),
            (frame(frames.HEADERS, b"123", stream=1, flags=frames.HAS_PRIORITY), frames.FRAME_SIZE_ERROR),
            (frame(frames.PRIORITY, b"1234", stream=1), frames.FRAME_SIZE_ERROR),
            (frame(frames.PRIORITY, b"12345", stream=0), PROTOCOL_ERROR),
            (frame(frames.RST_STREAM, b"1234", stream=1), PROTOCOL_ERROR),
            (frame(frames.RST_STREAM, b"123", stream=1), frames.FRAME_SIZE_ERROR),
            (frame(frames.SETTINGS, b"12345"), frames.FRAME_SIZE_ERROR),
            (settings([(_INITIAL_WINDOW_SIZE, 2**31)]), FLOW_CONTROL_ERROR),
            (settings([(_MAX_FRAME, 1)]), PROTOCOL_ERROR),
            (frame(frames.PUSH_PROMISE, b"1234", stream=1), PROTOCOL_ERROR),
            (frame(frames.PING, b"1234567"), frames.FRAME_SIZE_ERROR),
            (frame(frames.GOAWAY, b"1234"), frames.FRAME_SIZE_ERROR),
            (frame(frames.GOAWAY, b"12345678", stream=1), PROTOCOL_ERROR),
            (frame(frames.WINDOW_UPDATE, b"\0\0\0\0"), PROTOCOL_ERROR),
            (frame(frames.WINDOW_UPDATE, b"\x7f\xff\xff\xff") * 2, FLOW_CONTROL_ERROR),
            (frame(frames.WINDOW_UPDATE, b"\0\0\0"), frames.FRAME_SIZE_ERROR),
            (frame(frames.WINDOW_UPDATE, b"\0\0\0\1", stream=7), PROTOCOL_ERROR),
        ],
    )
    def test_errors(self, said: bytes, code: int) -> None:
        """What breaks the connection's rules ends it, and the peer is told why."""
        assert _fails(greeted(), said) == code

    def test_unknown_frames(self) -> None:
        """Section 4.1: frames of unknown types are ignored."""
        assert feed(greeted(), frame(0xFA, b"x" * 100, stream=9)) == []

    def test_ping(self) -> None:
        """A PING is answered with what it holds."""
        protocol = greeted()
        feed(protocol, frame(frames.PING, b"12345678"))
        assert sent(protocol) == [(frames.PING, frames.ACK, 0, b"12345678")]


class TestMalformed:
    """Section 8.1.1: a malformed message costs its stream."""

    def test_request(self) -> None:
        """A malformed request is answered, and the connection goes on."""
        protocol = greeted()
        events = feed(protocol, heads([*GET, (b"connection", b"close")]) + heads(GET, stream=3))
        assert isinstance(events[0], RequestRefused)
        assert _requests(events) == [3]
        kinds = [kind for kind, _, stream, _ in sent(protocol) if stream == 1]
        assert kinds == [frames.HEADERS, frames.DATA]

    def test_request_that_goes_on(self) -> None:
        """A refused request whose content is still to come is told to stop, and what comes is ignored."""
        protocol = greeted()
        feed(protocol, heads([*POST, (b"A", b"b")], end=False))
        assert resets(protocol) == [(1, NO_ERROR)]
        assert feed(protocol, data(b"abc", end=True)) == []

    def test_refusal_of_head(self) -> None:
        """A refused HEAD gets no content."""
        protocol = greeted()
        feed(protocol, heads([(b":method", b"HEAD"), *GET[1:], (b"A", b"b")]))
        assert [kind for kind, _, _, _ in sent(protocol)] == [frames.HEADERS]

    def test_refusal_without_window(self) -> None:
        """Where no content may be sent, a refusal is a header alone, without a length."""
        protocol = greeted(values=[(_INITIAL_WINDOW_SIZE, 0)])
        feed(protocol, heads([*GET, (b"A", b"b")]))
        (kind, flags, _, payload), *rest = sent(protocol)
        assert (kind, flags & frames.END_STREAM, rest) == (frames.HEADERS, frames.END_STREAM, [])
        assert b"content-length" not in payload

    def test_too_large(self) -> None:
        """A head beyond the limit is refused with 431; one far beyond ends the connection."""
        protocol = greeted(HttpLimits(head_bytes=1000))
        events = feed(protocol, heads([*GET, (b"a", b"b" * 1000)]))
        assert isinstance(events[0], RequestRefused)
        assert events[0].refused.status == 431
        assert _fails(protocol, heads([*GET, (b"a", b"b" * 3000)], stream=3)) == frames.ENHANCE_YOUR_CALM

    @pytest.mark.parametrize(
        "said",
        [
            data(b"1234"),
            data(b"12") + data(b"34", end=True),
            data(b"12", end=True),
            data(b"12") + heads([(b"a", b"b")]),
            heads([(b"a", b"b")], end=True),
        ],
    )
    def test_length(self, said: bytes) -> None:
        """Content that is not as long as its content-length breaks the request."""
        protocol = greeted()
        feed(protocol, heads([*POST, (b"content-length", b"3")], end=False))
        (broken,) = _broken(feed(protocol, said))
        assert broken.refused is not None
        assert resets(protocol) == [(1, PROTOCOL_ERROR)]

    @pytest.mark.parametrize(
        "said",
        [heads([(b"a", b"b")], end=False), heads([(b":path", b"/")]), heads([(b"connection", b"x")])],
    )
    def test_trailers(self, said: bytes) -> None:
        """A second head that is no trailers breaks the request."""
        protocol = greeted()
        feed(protocol, heads(POST, end=False))
        assert _broken(feed(protocol, said))[0].refused is not None

    def test_after_the_end(self) -> None:
        """Content after the end of a request breaks it."""
        protocol = greeted()
        feed(protocol, heads(GET))
        assert _broken(feed(protocol, data(b"x")))[0].code == STREAM_CLOSED

    @pytest.mark.parametrize(
        "said",
        [
            data(b"x"),
            heads([(b":status", b"abc")]),
            heads([*_OK, (b"transfer-encoding", b"chunked")]),
            heads([(b":status", b"101")], end=False),
            heads([*_OK, (b"content-length", b"1")], end=False) + data(b"xy"),
            heads([*_OK, (b"content-length", b"3")], end=False) + data(b"xy", end=True),
            heads([(b":status", b"204")], end=False) + data(b"x"),
            heads([(b":status", b"103")], end=False) * 33,
        ],
    )
    def test_answers(self, said: bytes) -> None:
        """A malformed answer breaks its request, and says that the workload is to blame."""
        protocol = answered()
        protocol.send_request(_ASK, end=True)
        (broken,) = _broken(feed(protocol, said))
        assert broken.refused is not None
        assert broken.refused.status == 502

    def test_head_has_no_content(self) -> None:
        """An answer to HEAD has a length, and no content."""
        protocol = answered()
        protocol.send_request(RequestHead(b"HEAD", b"/", b"api", []), end=True)
        events = feed(protocol, heads([*_OK, (b"content-length", b"7")]))
        assert events == [ResponseReceived(1, ResponseHead(200, [], 7)), BodyEnded(1, [])]


class TestFlowControl:
    """Sections 5.2 and 6.9."""

    def test_credit_is_for_delivery(self) -> None:
        """A peer gets credit for what a reader took, and none for what only came."""
        protocol = greeted()
        feed(protocol, heads(POST, end=False) + data(b"x" * 40_000))
        assert sent(protocol) == []
        protocol.delivered(1, 40_000, prompt=False)
        assert sent(protocol) == [(frames.WINDOW_UPDATE, 0, 1, (40_000).to_bytes(4, "big"))]

    def test_beyond_the_window(self) -> None:
        """More than the window allows breaks the stream."""
        protocol = greeted()
        feed(protocol, heads(POST, end=False))
        said = data(b"x" * 60_000) + data(b"x" * (INITIAL_WINDOW - 60_000 + 1))
        assert _broken(feed(protocol, said))[0].code == FLOW_CONTROL_ERROR

    def test_readers_that_stall(self) -> None:
        """A few readers that stall hold up their own streams only: the connection is credited."""
        protocol = greeted()
        for stream in range(1, 41, 2):
            feed(protocol, heads(POST, stream=stream, end=False) + data(b"x" * 60_000, stream=stream))
        feed(protocol, heads(POST, stream=41, end=False))
        for _ in range(100):
            feed(protocol, data(b"x" * 60_000, stream=41))
            protocol.delivered(41, 60_000, prompt=False)
        assert _connection_credit(protocol) > 4_000_000

    def test_unread_is_bounded(self) -> None:
        """All of a connection's streams together hold no more than its bound and a window."""
        protocol = greeted()
        held = []

        def pour() -> None:
            for stream in range(1, 2 * MAX_CONCURRENT_STREAMS, 2):
                feed(protocol, heads(POST, stream=stream, end=False) + data(b"x" * 60_000, stream=stream))
                held.append(60_000)

        with pytest.raises(RemoteProtocolError) as error:
            pour()
        assert error.value.code == FLOW_CONTROL_ERROR
        assert CONNECTION_WINDOW <= sum(held) <= MAX_UNREAD + CONNECTION_WINDOW

    @pytest.mark.parametrize("how", ["delivered", "reset", "reset by the peer"])
    def test_credit_comes_back(self, how: str) -> None:
        """When what was unread is taken, or nobody's any more, the connection is credited again."""
        protocol = greeted()
        streams = range(1, 121, 2)
        for stream in streams:
            feed(protocol, heads(POST, stream=stream, end=False) + data(b"x" * 60_000, stream=stream))
        before = _connection_credit(protocol)
        for stream in streams:
            if how == "delivered":
                protocol.delivered(stream, 60_000, prompt=False)
            elif how == "reset":
                protocol.reset_stream(stream)
            else:
                feed(protocol, frame(frames.RST_STREAM, b"\0\0\0\x08", stream=stream))
        assert before + _connection_credit(protocol) > 60 * 60_000 - CONNECTION_WINDOW // 2

    def test_padding(self) -> None:
        """Padding is credited at once, since nobody will take it."""
        protocol = greeted()
        feed(protocol, heads(POST, end=False))
        padded = frame(frames.DATA, b"\xff" + b"ab" + b"\0" * 255, flags=frames.PADDED, stream=1)
        for _ in range(140):
            assert feed(protocol, padded) == [DataReceived(1, b"ab")]
        assert any(kind == frames.WINDOW_UPDATE and stream == 1 for kind, _, stream, _ in sent(protocol))

    def test_sendable(self) -> None:
        """What may be sent is the least of both windows and the frame."""
        protocol = answered([(_INITIAL_WINDOW_SIZE, 100)])
        stream = protocol.send_request(_POST, end=False)
        assert protocol.sendable(stream) == 100
        protocol.send_data(stream, b"x" * 100, end=False)
        assert protocol.sendable(stream) == 0
        assert feed(protocol, frame(frames.WINDOW_UPDATE, b"\0\0\0\7", stream=1)) == [WindowOpened(1)]
        assert protocol.sendable(stream) == 7
        with pytest.raises(LocalProtocolError):
            protocol.send_data(stream, b"x" * 8, end=False)

    def test_settings_change_windows(self) -> None:
        """Section 6.9.2: a change of the initial window concerns streams that are open, below zero too."""
        protocol = answered()
        stream = protocol.send_request(_POST, end=False)
        protocol.send_data(stream, b"x" * 100, end=False)
        feed(protocol, settings([(_INITIAL_WINDOW_SIZE, 50)]))
        assert protocol.sendable(stream) == 0
        assert feed(protocol, settings([(_INITIAL_WINDOW_SIZE, 101)])) == [WindowOpened(0)]
        assert protocol.sendable(stream) == 1


class TestRefusing:
    """Sections 5.1.2, 6.8 and 8.7."""

    def test_too_many(self) -> None:
        """Streams beyond the limit are refused unseen, and count as a limit reached."""
        protocol = greeted()
        for stream in range(1, 2 * MAX_CONCURRENT_STREAMS, 2):
            feed(protocol, heads(POST, stream=stream, end=False))
        (event,) = feed(protocol, heads(GET, stream=601))
        assert isinstance(event, RequestRefused)
        assert event.refused.reason == "too_many_streams"
        assert resets(protocol) == [(601, REFUSED_STREAM)]

    def test_drain(self) -> None:
        """Once announced, requests are still taken; after the drain they are refused, and open ones go on."""
        ours, theirs = _joined()
        ours.send_request(_ASK, end=True)
        join(ours, theirs)
        theirs.announce_drain()
        feed(theirs, heads(GET, stream=3))
        theirs.drain()
        assert feed(theirs, heads(GET, stream=5)) == []
        goaways = [frames_ for frames_ in sent(theirs) if frames_[0] in (frames.GOAWAY, frames.RST_STREAM)]
        assert [int.from_bytes(payload[:4], "big") for _, _, _, payload in goaways] == [
            2**31 - 1,
            3,
            REFUSED_STREAM,
        ]
        assert theirs.open_streams == 2

    def test_peer_drains(self) -> None:
        """Requests beyond the peer's last are untouched; those before it go on; there is room for no more."""
        protocol = answered()
        for _ in range(3):
            protocol.send_request(_ASK, end=True)
        events = feed(protocol, frame(frames.GOAWAY, (3).to_bytes(4, "big") + b"\0\0\0\0bye"))
        assert events == [StreamBroken(5, REFUSED_STREAM, by_peer=True), PeerDraining(0, "bye")]
        assert (protocol.open_streams, protocol.room) == (2, 0)
        assert len(feed(protocol, heads(_OK, stream=3))) == 2

    def test_room(self) -> None:
        """Room is what the peer allows, less what is open; as it allows it now."""
        protocol = answered([(_MAX_STREAMS, 2)])
        protocol.send_request(_ASK, end=True)
        assert protocol.room == 1
        feed(protocol, settings([(_MAX_STREAMS, 0)]))
        assert protocol.room == 0
        with pytest.raises(LocalProtocolError):
            protocol.send_request(_ASK, end=True)

    def test_late_frames(self) -> None:
        """What was under way to a stream that we have reset is ignored."""
        protocol = greeted()
        feed(protocol, heads(POST, end=False))
        protocol.reset_stream(1)
        said = data(b"x") + frame(frames.WINDOW_UPDATE, b"\0\0\0\1", stream=1) + heads([(b"a", b"b")])
        assert feed(protocol, said) == []

    def test_reset(self) -> None:
        """A reset by the peer is told with its code."""
        protocol = greeted()
        feed(protocol, heads(POST, end=False))
        events = feed(protocol, frame(frames.RST_STREAM, b"\0\0\0\x08", stream=1))
        assert events == [StreamBroken(1, 8, by_peer=True)]


class TestFloods:
    """Section 10.5: what costs more to receive than to send has an end."""

    @pytest.mark.parametrize(
        "said",
        [
            frame(frames.PING, b"12345678"),
            settings(),
            frame(frames.PRIORITY, b"\0\0\0\0\1", stream=1),
            frame(frames.WINDOW_UPDATE, b"\0\0\0\1"),
            frame(0xFA),
            data(b""),
        ],
    )
    def test_frames(self, said: bytes) -> None:
        """A peer that sends nothing but control frames is told to calm down."""
        protocol = greeted()
        feed(protocol, heads(POST, end=False))
        assert _fails(protocol, said * int(CAPACITY + 10)) == frames.ENHANCE_YOUR_CALM

    def test_rapid_reset(self) -> None:
        """So is one that asks and resets, and asks and resets."""
        protocol = greeted()
        said = b"".join(
            heads(GET, stream=stream) + frame(frames.RST_STREAM, b"\0\0\0\x08", stream=stream)
            for stream in range(1, int(CAPACITY) + 10, 2)
        )
        assert _fails(protocol, said) == frames.ENHANCE_YOUR_CALM

    def test_refused_requests(self) -> None:
        """Answers to malformed requests earn nothing."""
        protocol = greeted()
        said = b"".join(
            heads([*GET, (b"A", b"b")], stream=stream) for stream in range(1, 2 * int(CAPACITY) + 10, 2)
        )
        assert _fails(protocol, said) == frames.ENHANCE_YOUR_CALM

    def test_continuation(self) -> None:
        """A header block without end is cut before it is large."""
        protocol = greeted()
        said = frame(frames.HEADERS, b"", stream=1) + frame(frames.CONTINUATION, b"x" * 16_000, stream=1) * 20
        assert _fails(protocol, said) == frames.ENHANCE_YOUR_CALM

    def test_work_is_no_flood(self) -> None:
        """A caller that asks, and takes what it asked for, is never told to calm down."""
        protocol = greeted()
        for stream in range(1, 40_000, 2):
            feed(protocol, heads(GET, stream=stream) + frame(frames.WINDOW_UPDATE, b"\0\0\0\1"))
            protocol.send_response(stream, ResponseHead(200, []), end=False)
            protocol.send_data(stream, b"x", end=True)
            protocol.take_output()
        assert protocol.open_streams == 0


@given(st.binary(max_size=200), st.booleans())
def test_garbage(said: bytes, at_frames: bool) -> None:
    """Whatever a peer says is taken, kept for later, or ends the connection; never worse."""
    for protocol in (greeted(), answered()):
        if at_frames:
            said = b"".join(
                frame(byte % 11, said[at : at + byte % 19], flags=said[at], stream=byte % 5)
                for at, byte in enumerate(said[1:])
            )
        with contextlib.suppress(RemoteProtocolError):
            protocol.receive(memoryview(said), 0)

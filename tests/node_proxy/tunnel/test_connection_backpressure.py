from node_proxy.tunnel.connection import WRITE_QUEUE_FATAL, WRITE_QUEUE_LIMIT
from node_proxy.tunnel.events import DataReceived
from node_proxy.tunnel.frames import FRAME_HEADER
from node_proxy.tunnel.http2 import CANCEL, Role
from node_proxy.tunnel.windows import INITIAL_WINDOW
from tests.fakes.driven_tunnel import READABLE, WRITABLE, DrivenTunnel, connected
from tests.fakes.link import data, payload_of
from tests.fakes.stream_handler import RecordingHandler
from tests.fakes.tls import FIRST_FD

FRAME = 16_000
STREAMS = WRITE_QUEUE_FATAL // INITIAL_WINDOW + 4


def stuck() -> tuple[DrivenTunnel, list[tuple[int, RecordingHandler]]]:
    """Give a tunnel with many streams whose socket takes nothing more."""
    driven = connected(Role.CLIENT)
    streams = [driven.open_accepted() for _ in range(STREAMS)]
    driven.tls.room = 0
    return driven, streams


def send_window(driven: DrivenTunnel, stream_id: int) -> None:
    """Send all that the stream's window allows, whatever the socket says."""
    while room := driven.tunnel.protocol.sendable(stream_id):
        driven.send(stream_id, bytes(min(room, FRAME)))


def congest(driven: DrivenTunnel, streams: list[tuple[int, RecordingHandler]]) -> None:
    """Send until the tunnel says it is congested."""
    for stream_id, _ in streams:
        while not driven.tunnel.congested and (room := driven.tunnel.sendable(stream_id)):
            driven.send(stream_id, bytes(min(room, FRAME)))


def test_what_does_not_fit_waits_for_room() -> None:
    """A full socket is watched for room; what waits goes out in order when there is some."""
    driven, [(stream_id, _), *_rest] = stuck()
    for part in (b"one", b"two", b"three"):
        driven.send(stream_id, part)
    assert driven.poller.mask(FIRST_FD) == READABLE | WRITABLE
    driven.make_room(None)
    driven.to_peer()
    assert payload_of(driven.peer.heard, stream_id) == b"onetwothree"


def test_empty_queue_ends_the_watch() -> None:
    """Room is not watched for when nothing waits: it would be reported for ever."""
    driven, [(stream_id, _), *_rest] = stuck()
    driven.send(stream_id, b"payload")
    driven.make_room(None)
    assert driven.poller.mask(FIRST_FD) == READABLE


def test_blocked_write_is_repeated_as_it_was() -> None:
    """What TLS began to write is given to it again, byte for byte, and nothing overtakes it."""
    driven, [(stream_id, _), *_rest] = stuck()
    driven.send(stream_id, b"first")
    driven.tls.room = FRAME_HEADER + 1
    # Shorter than what waits: TLS would take it, and break.
    driven.send(stream_id, b"2")
    driven.make_room(None)
    driven.to_peer()
    assert driven.tunnel.closed is None
    assert payload_of(driven.peer.heard, stream_id) == b"first2"


def test_room_for_a_part() -> None:
    """As much as fits goes out, the rest waits on."""
    driven, [(stream_id, _), *_rest] = stuck()
    driven.send(stream_id, b"one")
    driven.send(stream_id, b"two")
    driven.make_room(FRAME_HEADER + 3)
    driven.to_peer()
    assert payload_of(driven.peer.heard, stream_id) == b"one"
    assert driven.poller.mask(FIRST_FD) == READABLE | WRITABLE


def test_congested_tunnel_takes_no_payload() -> None:
    """Above the limit no stream may send, whatever its window says."""
    driven, streams = stuck()
    congest(driven, streams)
    assert driven.tunnel.congested
    assert driven.tunnel.protocol.sendable(streams[-1][0]) > 0
    assert driven.tunnel.sendable(streams[-1][0]) == 0


def test_queue_stays_near_its_limit() -> None:
    """Streams that ask before they send queue the limit and one frame more."""
    driven, streams = stuck()
    congest(driven, streams)
    assert WRITE_QUEUE_LIMIT < driven.tunnel._queued <= WRITE_QUEUE_LIMIT + FRAME + FRAME_HEADER


def test_waiting_streams_go_on_below_half() -> None:
    """Streams that wait for a congested tunnel are told once it has sent enough."""
    driven, streams = stuck()
    congest(driven, streams)
    stream_id, handler = streams[-1]
    driven.tunnel.wait_writable(stream_id, handler)
    driven.make_room(WRITE_QUEUE_LIMIT // 4)
    assert handler.heard == []
    driven.make_room(WRITE_QUEUE_LIMIT)
    assert handler.heard == [("writable",)]
    assert driven.tunnel.sendable(stream_id) > 0


def test_told_once() -> None:
    """`on_writable` comes once for each time it was asked for."""
    driven, streams = stuck()
    congest(driven, streams)
    stream_id, handler = streams[-1]
    driven.tunnel.wait_writable(stream_id, handler)
    driven.make_room(None)
    driven.exchange()
    assert handler.heard == [("writable",)]


def test_shut_window_keeps_waiting() -> None:
    """A stream whose own window is shut is not told of room in the socket."""
    driven = connected(Role.CLIENT)
    stream_id, handler = driven.open_accepted()
    driven.tls.room = 0
    send_window(driven, stream_id)
    driven.tunnel.wait_writable(stream_id, handler)
    driven.make_room(None)
    driven.exchange()
    assert handler.heard == []
    driven.peer.protocol.delivered(stream_id, INITIAL_WINDOW, prompt=False)
    driven.exchange()
    assert handler.heard == [("writable",)]


def test_settings_resume_every_stream() -> None:
    """A larger initial window wakes all streams that wait."""
    driven = connected(Role.CLIENT)
    streams = [driven.open_accepted() for _ in range(3)]
    for stream_id, handler in streams:
        send_window(driven, stream_id)
        driven.tunnel.wait_writable(stream_id, handler)
    driven.tls.incoming += b"\0\0\x06\4\0\0\0\0\0" + b"\0\4" + (INITIAL_WINDOW + 5).to_bytes(4, "big")
    driven.poller.ready(FIRST_FD, READABLE)
    assert [handler.heard for _, handler in streams] == [[("writable",)]] * 3


def test_reset_stream_is_not_told() -> None:
    """A stream that ended while it waited hears nothing of room."""
    driven, streams = stuck()
    congest(driven, streams)
    (own, by_us), (theirs, by_peer) = streams[-2:]
    driven.tunnel.wait_writable(own, by_us)
    driven.tunnel.wait_writable(theirs, by_peer)
    driven.tunnel.reset_stream(own, CANCEL)
    driven.peer.protocol.reset_stream(theirs, CANCEL)
    driven.from_peer()
    driven.make_room(None)
    assert by_us.heard == []
    assert by_peer.heard == [("reset", CANCEL)]
    assert driven.tunnel._waiting == {}


def test_reading_goes_on_while_writing_is_stuck() -> None:
    """A peer whose socket is full is still read from: it may be waiting for us to do so."""
    driven, [(stream_id, handler), *_rest] = stuck()
    driven.send(stream_id, b"stuck")
    driven.peer.send(stream_id, b"news")
    driven.from_peer()
    assert handler.heard == [("data", b"news")]


def test_peer_that_reads_nothing_is_closed() -> None:
    """What waits for one peer is bounded, even where nothing asked before it was queued."""
    driven, streams = stuck()
    for stream_id, _ in streams:
        if driven.tunnel.closed is None:
            send_window(driven, stream_id)
    assert "reads nothing" in str(driven.tunnel.closed)


def test_pings_are_answered_in_order_with_payload() -> None:
    """Control frames and payload leave in the order in which they were made."""
    driven, [(stream_id, _), *_rest] = stuck()
    driven.send(stream_id, b"before")
    driven.peer.protocol.ping()
    driven.from_peer()
    driven.send(stream_id, b"after")
    driven.make_room(None)
    driven.peer.heard.clear()
    driven.to_peer()
    first, ping, last = driven.peer.heard
    assert (first, last) == (data(stream_id, b"before"), data(stream_id, b"after"))
    assert not isinstance(ping, DataReceived)

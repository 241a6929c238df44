"""Small frames of one turn of the reactor go out together."""

from node_proxy.errors import TunnelClosed
from node_proxy.tunnel.connection import GATHERED_FRAME, LARGEST_RECORD
from node_proxy.tunnel.events import DataReceived, PeerDraining
from node_proxy.tunnel.http2 import Role
from tests.fakes.driven_tunnel import DrivenTunnel, connected
from tests.fakes.link import payload_of


def turning(streams: int) -> tuple[DrivenTunnel, list[int]]:
    """Give a tunnel with open streams in the middle of a turn."""
    driven = connected(Role.CLIENT)
    opened = [driven.open_accepted()[0] for _ in range(streams)]
    driven.exchange()
    driven.poller.in_turn = True
    return driven, opened


def test_one_write_for_many_streams() -> None:
    """What several streams send in a turn leaves at its end, in order."""
    driven, streams = turning(3)
    for stream_id in streams:
        driven.send(stream_id, b"answer")
    assert driven.tls.outgoing == b""
    driven.poller.end_turn()
    driven.to_peer()
    heard = [event.stream_id for event in driven.peer.heard if isinstance(event, DataReceived)]
    assert heard == streams


def test_turn_end_is_asked_for_once() -> None:
    """However many frames are gathered, the poller is asked for one call."""
    driven, streams = turning(3)
    for stream_id in streams:
        driven.send(stream_id, b"answer")
    assert len(driven.poller.put_off) == 1


def test_large_frame_follows_what_was_gathered() -> None:
    """A frame worth a call of its own overtakes nothing."""
    driven, [stream_id] = turning(1)
    large = bytes(GATHERED_FRAME + 1)
    driven.send(stream_id, b"first")
    driven.send(stream_id, large)
    driven.to_peer()
    assert payload_of(driven.peer.heard, stream_id) == b"first" + large


def test_record_that_is_full_leaves_at_once() -> None:
    """A turn gathers no more than one TLS record."""
    driven, [stream_id] = turning(1)
    for _ in range(2 * LARGEST_RECORD // 1000):
        driven.send(stream_id, bytes(1000))
    assert len(driven.tls.outgoing) > LARGEST_RECORD // 2


def test_last_words_are_sent_before_the_close() -> None:
    """A GOAWAY of the same turn reaches the peer although the tunnel closes before the turn's end."""
    driven, _ = turning(1)
    driven.tunnel.drain()
    driven.tunnel.close(TunnelClosed("test"))
    driven.to_peer()
    assert isinstance(driven.peer.heard[-1], PeerDraining)


def test_turn_that_ends_after_the_close() -> None:
    """A tunnel closed within the turn has nothing to send at its end."""
    driven, [stream_id] = turning(1)
    driven.send(stream_id, b"lost")
    driven.tls.send_error = BrokenPipeError()
    driven.tunnel.close(TunnelClosed("test"))
    driven.poller.end_turn()
    assert driven.tunnel.closed is not None

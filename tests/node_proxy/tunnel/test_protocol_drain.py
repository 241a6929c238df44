"""RFC 9113 section 6.8: GOAWAY announces the end, and what is open goes on to its own."""

import hyperframe.frame
import pytest

from node_proxy.errors import LocalProtocolError
from node_proxy.tunnel.events import PeerDraining, StreamAccepted, StreamEnded, StreamReset
from node_proxy.tunnel.http2 import REFUSED_STREAM
from tests.fakes.link import AUTHORITY, data, established

NO_ERROR = 0


def test_client_is_told_what_the_server_has_seen() -> None:
    """GOAWAY names the last stream that the server looked at."""
    link = established()
    stream_id = link.accepted()
    link.server.protocol.drain()
    assert link.news()[0] == [PeerDraining(stream_id, NO_ERROR)]


def test_open_streams_go_on_to_their_end() -> None:
    """Payload and half-closes pass on streams that were open before the GOAWAY."""
    link = established()
    stream_id = link.accepted()
    link.server.protocol.drain()
    link.news()
    link.client.send(stream_id, b"question")
    link.client.protocol.end_stream(stream_id)
    assert link.news()[1] == [data(stream_id, b"question"), StreamEnded(stream_id)]
    link.server.send(stream_id, b"answer")
    link.server.protocol.end_stream(stream_id)
    assert link.news()[0] == [data(stream_id, b"answer"), StreamEnded(stream_id)]
    assert link.client.protocol.open_streams == link.server.protocol.open_streams == 0


def test_seen_request_may_still_be_answered() -> None:
    """A CONNECT that arrived before the drain is accepted after it."""
    link = established()
    stream_id = link.request()
    link.server.protocol.drain()
    link.server.protocol.accept_stream(stream_id)
    assert StreamAccepted(stream_id) in link.news()[0]


def test_request_that_crosses_the_goaway_is_refused() -> None:
    """A CONNECT sent before the GOAWAY was heard gets REFUSED_STREAM: a retry elsewhere is safe."""
    link = established()
    link.server.protocol.drain()
    stream_id = link.client.protocol.open_stream(AUTHORITY)
    client, server = link.news()
    assert client == [PeerDraining(0, NO_ERROR), StreamReset(stream_id, REFUSED_STREAM)]
    assert server == []


def test_refused_request_that_has_ended() -> None:
    """The same when the request carries END_STREAM."""
    link = established()
    link.server.protocol.drain()
    stream_id = link.client.protocol.open_stream(AUTHORITY)
    link.client.protocol.end_stream(stream_id)
    assert StreamReset(stream_id, REFUSED_STREAM) in link.news()[0]


def test_no_new_streams_to_a_draining_peer() -> None:
    """A client that has heard GOAWAY has no capacity."""
    link = established()
    link.server.protocol.drain()
    link.news()
    assert not link.client.protocol.has_capacity
    with pytest.raises(LocalProtocolError):
        link.client.protocol.open_stream(AUTHORITY)


def test_client_drains() -> None:
    """A client that retires a tunnel opens no more streams on it and ends those it has."""
    link = established()
    stream_id = link.accepted()
    link.client.protocol.drain()
    assert not link.client.protocol.has_capacity
    assert link.news()[1] == [PeerDraining(0, NO_ERROR)]
    link.server.send(stream_id, b"still here")
    assert link.news()[0] == [data(stream_id, b"still here")]


def test_both_drain() -> None:
    """Both ends may drain at once; the open stream goes on."""
    link = established()
    stream_id = link.accepted()
    link.client.protocol.drain()
    link.server.protocol.drain()
    link.news()
    link.client.send(stream_id, b"on")
    link.server.send(stream_id, b"and on")
    assert link.news() == ([data(stream_id, b"and on")], [data(stream_id, b"on")])


def test_draining_twice_sends_one_goaway() -> None:
    """Drain may be ordered again without harm."""
    link = established()
    link.server.protocol.drain()
    link.server.protocol.drain()
    assert link.server.take_outbox().count(b"\x00\x00\x08\x07\x00") == 1


def test_goaway_with_an_error_tells_its_code() -> None:
    """The peer's code for leaving is passed on, and what it says of it."""
    link = established()
    frame = hyperframe.frame.GoAwayFrame(0, last_stream_id=0, error_code=11, additional_data=b"calm")
    assert link.client.receive(frame.serialize()) == [PeerDraining(0, 11, "calm")]


def test_peer_may_lower_its_last_stream() -> None:
    """A graceful shutdown sends two GOAWAYs, the first with the highest id (section 6.8)."""
    link = established()
    stream_id = link.accepted()
    first = hyperframe.frame.GoAwayFrame(0, last_stream_id=2**31 - 1)
    second = hyperframe.frame.GoAwayFrame(0, last_stream_id=stream_id)
    assert link.client.receive(first.serialize()) == [PeerDraining(2**31 - 1, NO_ERROR)]
    assert link.client.receive(second.serialize()) == [PeerDraining(stream_id, NO_ERROR)]

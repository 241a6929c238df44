import ssl

import pytest

from node_proxy.tunnel.connection import CIPHER_SIZE, LARGEST_RECORD, READS_PER_TURN
from node_proxy.tunnel.events import Established
from node_proxy.tunnel.frames import FRAME_HEADER
from node_proxy.tunnel.handlers import TUNNEL_CLOSED
from node_proxy.tunnel.http2 import MAX_FRAME_SIZE, Role
from tests.fakes.driven_tunnel import READABLE, DrivenTunnel, connected
from tests.fakes.link import payload_of
from tests.fakes.tls import FIRST_FD


class TestReading:
    @pytest.mark.parametrize("record", [1, 7, LARGEST_RECORD])
    def test_records_of_any_size(self, record: int) -> None:
        """However TLS cuts the bytes, frames are put together again."""
        driven = connected(Role.CLIENT, record=record)
        stream_id, handler = driven.open_accepted()
        payload = bytes(range(256)) * 8
        driven.peer.send(stream_id, payload)
        driven.peer.send(stream_id, payload)
        driven.exchange()
        assert handler.payload == payload * 2

    def test_largest_frames(self) -> None:
        """Frames as large as we advertise fit the buffer with what came before them."""
        driven = connected(Role.CLIENT)
        stream_id, handler = driven.open_accepted()
        header = MAX_FRAME_SIZE.to_bytes(3, "big") + b"\0\0" + stream_id.to_bytes(4, "big")
        driven.tls.incoming += (header + bytes(MAX_FRAME_SIZE)) * 2
        driven.exchange()
        assert len(handler.payload) == 2 * MAX_FRAME_SIZE

    def test_turn_ends_after_some_reads(self) -> None:
        """One busy tunnel reads a bounded number of times, then the others of its worker have their turn."""
        driven = connected(Role.CLIENT)
        stream_id, _ = driven.open_accepted()
        frame = MAX_FRAME_SIZE.to_bytes(3, "big") + b"\0\0" + stream_id.to_bytes(4, "big")
        driven.tls.incoming += (frame + bytes(MAX_FRAME_SIZE)) * (READS_PER_TURN + 1)
        driven.tls.reads = 0
        driven.poller.ready(FIRST_FD, READABLE)
        assert driven.tls.reads == READS_PER_TURN
        assert driven.tls.incoming

    def test_room_for_a_record_behind_the_longest_rest(self) -> None:
        """The same behind a frame of which all but the last byte has come."""
        driven = connected(Role.CLIENT)
        stream_id, _ = driven.open_accepted()
        frame = MAX_FRAME_SIZE.to_bytes(3, "big") + b"\0\0" + stream_id.to_bytes(4, "big")
        frame += bytes(MAX_FRAME_SIZE)
        driven.tls.incoming += frame[:-1]
        driven.exchange()
        driven.tls.incoming += frame[-1:] + frame[:-1]
        driven.poller.ready(FIRST_FD, READABLE)
        assert driven.tls.received == b""

    @pytest.mark.parametrize(
        ("end", "outcome"),
        [(b"", "closed the connection"), (ConnectionResetError("reset by peer"), "reset by peer")],
        ids=["end", "error"],
    )
    def test_what_came_before_the_end(self, end: OSError | bytes, outcome: str) -> None:
        """Payload that is read in the same turn as the connection's end is handed on before the close."""
        driven = connected(Role.CLIENT)
        stream_id, handler = driven.open_accepted()
        # As much as one read takes, so that the next finds the end in the same turn.
        payload = bytes(CIPHER_SIZE - FRAME_HEADER)
        header = len(payload).to_bytes(3, "big") + b"\0\0" + stream_id.to_bytes(4, "big")
        driven.tls.incoming += header + payload
        driven.tls.at_end = end
        driven.poller.ready(FIRST_FD, READABLE)
        assert handler.heard == [("data", payload), ("reset", TUNNEL_CLOSED)]
        assert outcome in str(driven.tunnel.closed)

    def test_nothing_decrypted_is_left_behind(self) -> None:
        """What one read brought is decrypted to its end, since epoll would never report it again."""
        driven = connected(Role.CLIENT)
        stream_id, handler = driven.open_accepted()
        header = MAX_FRAME_SIZE.to_bytes(3, "big") + b"\0\0" + stream_id.to_bytes(4, "big")
        driven.tls.incoming += (header + bytes(MAX_FRAME_SIZE)) * 2
        while driven.tls.incoming:
            driven.poller.ready(FIRST_FD, READABLE)
            assert driven.tls.received == b""
        assert len(handler.payload) == 2 * MAX_FRAME_SIZE

    def test_close_notify_ends_the_tunnel(self) -> None:
        """A peer that ends TLS and leaves TCP open has closed; what came before is handed on."""
        driven = connected(Role.CLIENT)
        stream_id, handler = driven.open_accepted()
        driven.peer.send(stream_id, b"last")
        driven.tls.alert = b""
        driven.from_peer()
        assert handler.heard == [("data", b"last"), ("reset", TUNNEL_CLOSED)]

    def test_alert_names_the_cause(self) -> None:
        """An alert ends the tunnel with what it says."""
        driven = connected(Role.CLIENT)
        driven.peer.protocol.ping()
        driven.tls.alert = ssl.SSLError("TLSV13_ALERT_CERTIFICATE_REQUIRED")
        driven.from_peer()
        assert "CERTIFICATE_REQUIRED" in str(driven.tunnel.closed)

    def test_answer_to_a_key_update_is_sent(self) -> None:
        """What TLS itself wants to say after a read goes out, though no frame does."""
        driven = connected(Role.CLIENT)
        stream_id, _ = driven.open_accepted()
        driven.peer.send(stream_id, b"payload")
        driven.tls.own_output = b"key update"
        driven.from_peer()
        assert driven.tls.take() == b"key update"

    def test_what_came_with_the_handshake(self) -> None:
        """Records that were read along with the handshake's end are handled at the start."""
        driven = DrivenTunnel(Role.SERVER, started=False)
        driven.tls.received += driven.peer.take_outbox()
        driven.tunnel.start()
        driven.to_peer()
        assert Established() in driven.peer.heard
        assert driven.tls.received == b""


def test_payload_of_two_tunnels_in_one_buffer() -> None:
    """Tunnels that share a buffer do not see each other's unfinished frames."""
    first, second = connected(Role.CLIENT), connected(Role.CLIENT)
    second.tunnel._plain, second.tunnel._cipher = first.tunnel._plain, first.tunnel._cipher
    streams = [driven.open_accepted() for driven in (first, second)]
    wires = []
    for driven, (stream_id, _) in zip((first, second), streams, strict=True):
        driven.peer.send(stream_id, b"%d" % stream_id * 50)
        wires.append(driven.peer.take_outbox())
    for position in range(0, len(wires[0]), 7):
        for driven, wire in zip((first, second), wires, strict=True):
            driven.tls.incoming += wire[position : position + 7]
            driven.poller.ready(FIRST_FD, READABLE)
    assert [handler.payload for _, handler in streams] == [b"%d" % stream_id * 50 for stream_id, _ in streams]
    assert payload_of(first.peer.heard, 1) == b""

"""Against plain h2 as the other end: an implementation that knows nothing of our short cuts."""

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from node_proxy.tunnel.events import (
    Event,
    PeerDraining,
    PingAcknowledged,
    StreamAccepted,
    StreamEnded,
    StreamRefused,
    StreamRequested,
    StreamReset,
    WindowOpened,
)
from node_proxy.tunnel.http2 import CANCEL, Role
from tests.fakes.link import AUTHORITY, End, data, payload_of

# Many times every window on the way.
LARGE = 3_000_000


class PlainPeer:
    """An h2 connection joined to an end of ours; it credits what it receives at once."""

    def __init__(self, role: Role) -> None:
        config = h2.config.H2Configuration(client_side=role is Role.CLIENT, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.ours = End(Role.SERVER if role is Role.CLIENT else Role.CLIENT)
        self.heard: list[h2.events.Event] = []
        self.exchange()

    def exchange(self) -> list[Event]:
        """Deliver both ways until both are silent; gives what our end heard."""
        before = len(self.ours.heard)
        while True:
            theirs, ours = self.h2.data_to_send(), self.ours.take_outbox()
            if not (theirs or ours):
                return self.ours.heard[before:]
            self.ours.receive(theirs)
            for event in self.h2.receive_data(ours):
                self.heard.append(event)
                if isinstance(event, h2.events.DataReceived):
                    self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)

    def heard_of(self, kind: type[h2.events.Event]) -> list[h2.events.Event]:
        """Give what the plain peer heard of one kind."""
        return [event for event in self.heard if isinstance(event, kind)]

    def received(self) -> bytes:
        """Give all payload that the plain peer has received."""
        return b"".join(e.data or b"" for e in self.heard if isinstance(e, h2.events.DataReceived))

    def connect(self) -> int:
        """Let a plain client ask for a stream that ours accepts."""
        self.h2.send_headers(1, [(":method", "CONNECT"), (":authority", AUTHORITY)])
        assert self.exchange() == [StreamRequested(1, AUTHORITY, ())]
        self.ours.protocol.accept_stream(1)
        self.exchange()
        return 1

    def accept(self) -> int:
        """Let our client ask for a stream that the plain server accepts."""
        stream_id = self.ours.protocol.open_stream(AUTHORITY)
        self.exchange()
        self.h2.send_headers(stream_id, [(":status", "200")])
        assert StreamAccepted(stream_id) in self.exchange()
        return stream_id


@pytest.fixture
def client() -> PlainPeer:
    """Give a plain client before a server of ours."""
    return PlainPeer(Role.CLIENT)


@pytest.fixture
def server() -> PlainPeer:
    """Give a plain server behind a client of ours."""
    return PlainPeer(Role.SERVER)


def send_much(peer: PlainPeer, stream_id: int, payload: bytes) -> None:
    """Let the plain peer send within its windows, while our reader takes all at once."""
    position = 0
    while position < len(payload):
        room = min(peer.h2.local_flow_control_window(stream_id), peer.h2.max_outbound_frame_size)
        assert room > 0, "no credit came back"
        chunk = payload[position : position + room]
        peer.h2.send_data(stream_id, chunk)
        position += len(chunk)
        peer.exchange()
        peer.ours.protocol.delivered(stream_id, len(chunk), prompt=True)
        peer.exchange()


def test_plain_client_exchanges_bytes(client: PlainPeer) -> None:
    """A plain client's bytes come through, and ours to it, to the end of both."""
    client.connect()
    client.h2.send_data(1, b"question", end_stream=True)
    assert client.exchange() == [data(1, b"question"), StreamEnded(1)]
    client.ours.send(1, b"answer")
    client.ours.protocol.end_stream(1)
    client.exchange()
    assert client.received() == b"answer"
    assert len(client.heard_of(h2.events.StreamEnded)) == 1
    assert client.ours.protocol.open_streams == client.h2.open_outbound_streams == 0


def test_plain_server_exchanges_bytes(server: PlainPeer) -> None:
    """A plain server's bytes come through, and ours to it, to the end of both."""
    stream_id = server.accept()
    server.ours.send(stream_id, b"question")
    server.ours.protocol.end_stream(stream_id)
    server.exchange()
    assert server.received() == b"question"
    server.h2.send_data(stream_id, b"answer", end_stream=True)
    assert server.exchange() == [data(stream_id, b"answer"), StreamEnded(stream_id)]
    assert server.ours.protocol.open_streams == server.h2.open_inbound_streams == 0


def test_much_from_a_plain_client(client: PlainPeer) -> None:
    """Megabytes pass on the credit that our end gives."""
    client.connect()
    payload = bytes(range(250)) * (LARGE // 250)
    send_much(client, 1, payload)
    assert payload_of(client.ours.heard, 1) == payload


def test_much_to_a_plain_server(server: PlainPeer) -> None:
    """Megabytes pass within the windows that a plain server opens."""
    stream_id = server.accept()
    payload = bytes(range(250)) * (LARGE // 250)
    position = 0
    while position < len(payload):
        sent = server.ours.send_allowed(stream_id, payload[position:])
        assert sent, "no credit came back"
        position += sent
        server.exchange()
    assert server.received() == payload


def test_plain_peers_window_is_respected(server: PlainPeer) -> None:
    """What a plain server allows is used up to the byte and not beyond: it would raise."""
    stream_id = server.accept()
    window = server.h2.remote_flow_control_window(stream_id)
    assert server.ours.send_allowed(stream_id, bytes(LARGE)) == window


def test_plain_client_hears_a_refusal(client: PlainPeer) -> None:
    """A refusal is an answer with a reason, an end and no error."""
    client.h2.send_headers(1, [(":method", "CONNECT"), (":authority", AUTHORITY)])
    client.exchange()
    client.ours.protocol.refuse_stream(1, 403, "denied; policy=default/no-web; id=1")
    client.exchange()
    (response,) = client.heard_of(h2.events.ResponseReceived)
    assert isinstance(response, h2.events.ResponseReceived)
    assert dict(response.headers or ()) == {
        b":status": b"403",
        b"nodemesh-reason": b"denied; policy=default/no-web; id=1",
    }
    assert len(client.heard_of(h2.events.StreamEnded)) == 1


def test_plain_server_refuses(server: PlainPeer) -> None:
    """A refusal by a peer that knows no reason header is a refusal."""
    stream_id = server.ours.protocol.open_stream(AUTHORITY)
    server.exchange()
    server.h2.send_headers(stream_id, [(":status", "503")], end_stream=True)
    assert server.exchange() == [StreamRefused(stream_id, 503, "")]


def test_resets_reach_each_other(client: PlainPeer) -> None:
    """RST_STREAM is understood both ways."""
    client.connect()
    client.ours.protocol.reset_stream(1, CANCEL)
    client.exchange()
    assert len(client.heard_of(h2.events.StreamReset)) == 1
    client.h2.send_headers(3, [(":method", "CONNECT"), (":authority", AUTHORITY)])
    client.h2.reset_stream(3, CANCEL)
    assert client.exchange() == [StreamRequested(3, AUTHORITY, ()), StreamReset(3, CANCEL)]


def test_plain_server_leaves(server: PlainPeer) -> None:
    """The GOAWAY of a plain server is heard."""
    stream_id = server.accept()
    server.h2.close_connection()
    assert server.exchange() == [PeerDraining(stream_id, 0)]


def test_settings_and_pings(client: PlainPeer) -> None:
    """SETTINGS and PINGs are acknowledged both ways."""
    client.h2.update_settings({4: 1_000_000})
    client.h2.ping(b"12345678")
    assert client.exchange() == [WindowOpened(0)]
    assert len(client.heard_of(h2.events.PingAckReceived)) == 1
    client.ours.protocol.ping()
    assert client.exchange() == [PingAcknowledged()]


@pytest.mark.parametrize("size", [0, 100])
def test_peer_that_shrinks_its_header_table(client: PlainPeer, size: int) -> None:
    """A peer may shrink its header table at any time: our blocks need none (RFC 7541 section 4.2)."""
    client.h2.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
    client.exchange()
    client.connect()
    assert len(client.heard_of(h2.events.ResponseReceived)) == 1


def test_trailers_end_a_stream(client: PlainPeer) -> None:
    """A peer may end its payload with trailers, which mean nothing to a tunnel."""
    client.connect()
    client.h2.send_data(1, b"payload")
    client.h2.send_headers(1, [("checksum", "1")], end_stream=True)
    assert client.exchange() == [data(1, b"payload"), StreamEnded(1)]

"""What holds for every chunking, every interleaving and every input."""

import hpack
import hyperframe.frame
from hypothesis import given, settings
from hypothesis import strategies as st

from node_proxy.errors import RemoteProtocolError
from node_proxy.tunnel.events import (
    StreamAccepted,
    StreamEnded,
    StreamRefused,
    StreamRequested,
    StreamReset,
)
from node_proxy.tunnel.http2 import Role
from node_proxy.tunnel.windows import GROWTH_BUDGET
from tests.fakes.link import AUTHORITY, End, Link, established, payload_of

OF_EITHER = ("send", "end", "reset", "read", "deliver", "ping", "drain")
ACTIONS = (
    *("open", "accept", "refuse"),
    *(f"client {action}" for action in OF_EITHER),
    *(f"server {action}" for action in OF_EITHER),
)
# (what, which of the streams in question, how many bytes)
STEPS = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 7), st.integers(1, 120_000)), min_size=1, max_size=60
)


class Side:
    """One end, and what its driver would know."""

    def __init__(self, end: End) -> None:
        self.end = end
        # Streams on which this end may send, and what it has sent.
        self.sending: list[int] = []
        self.sent: dict[int, bytes] = {}
        # Bytes received that no reader has taken yet.
        self.unread: dict[int, int] = {}

    def hear(self, wire: bytes) -> None:
        """Receive, and keep the books."""
        for event in self.end.receive(wire):
            match event:
                case StreamAccepted(stream_id):
                    assert stream_id in self.sent
                case StreamRefused(stream_id) | StreamReset(stream_id):
                    self.stop(stream_id)
                case _:
                    pass
        for stream_id in {getattr(event, "stream_id", 0) for event in self.end.heard} - {0}:
            self.unread.setdefault(stream_id, 0)

    def stop(self, stream_id: int) -> None:
        """Send no more on a stream."""
        if stream_id in self.sending:
            self.sending.remove(stream_id)


class Traffic:
    """A link that is driven by random steps."""

    def __init__(self) -> None:
        link = established()
        self.link = link
        self.client, self.server = Side(link.client), Side(link.server)
        self.taken: dict[tuple[Side, int], int] = {}
        self.cut: set[int] = set()

    def step(self, action: str, which: int, amount: int) -> None:
        """Do one step, if it is possible now."""
        match action.split():
            case ["open"]:
                self._open()
            case ["accept"] if requested := self._requested():
                self._accept(requested[which % len(requested)])
            case ["refuse"] if requested := self._requested():
                self.cut.add(requested[which % len(requested)])
                self.server.end.protocol.refuse_stream(requested[which % len(requested)], 403, "denied")
            case [("client" | "server") as who, what]:
                side = self.client if who == "client" else self.server
                self._side_step(side, what, which, amount)
            case _:
                pass

    def _side_step(self, side: Side, what: str, which: int, amount: int) -> None:
        protocol = side.end.protocol
        stream_id = side.sending[which % len(side.sending)] if side.sending else 0
        match what:
            case "deliver":
                self._deliver(side, amount)
            case "ping":
                protocol.ping()
            case "drain" if which == 0:
                protocol.drain()
            case "read":
                self._read(side, prompt=which % 2 == 0)
            case "send" if stream_id:
                payload = bytes([which + 1]) * amount
                sent = side.end.send_allowed(stream_id, payload)
                side.sent[stream_id] += payload[:sent]
            case "end" if stream_id:
                side.stop(stream_id)
                protocol.end_stream(stream_id)
            case "reset" if stream_id:
                side.stop(stream_id)
                self.cut.add(stream_id)
                protocol.reset_stream(stream_id)
            case _:
                pass

    def _open(self) -> None:
        if self.client.end.protocol.has_capacity:
            stream_id = self.client.end.protocol.open_stream(AUTHORITY)
            self.client.sending.append(stream_id)
            self.client.sent[stream_id] = b""

    def _requested(self) -> list[int]:
        heard = [event.stream_id for event in self.server.end.heard if isinstance(event, StreamRequested)]
        gone = {event.stream_id for event in self.server.end.heard if isinstance(event, StreamReset)}
        return [each for each in heard if each not in self.server.sent and each not in gone | self.cut]

    def _accept(self, stream_id: int) -> None:
        self.server.end.protocol.accept_stream(stream_id)
        self.server.sending.append(stream_id)
        self.server.sent[stream_id] = b""

    def _deliver(self, sender: Side, limit: int | None) -> None:
        receiver = self.server if sender is self.client else self.client
        receiver.hear(sender.end.take_outbox(limit))

    def _read(self, side: Side, *, prompt: bool) -> None:
        for stream_id in side.unread:
            unread = len(payload_of(side.end.heard, stream_id)) - self.taken.get((side, stream_id), 0)
            self.taken[side, stream_id] = self.taken.get((side, stream_id), 0) + unread
            side.end.protocol.delivered(stream_id, unread, prompt=prompt)

    def settle(self) -> None:
        """Deliver all that is under way."""
        while self.client.end.protocol._output or self.server.end.protocol._output or self._under_way():
            self._deliver(self.client, None)
            self._deliver(self.server, None)

    def _under_way(self) -> bool:
        return bool(self.client.end._outbox or self.server.end._outbox)


def half_closed(end: End) -> dict[int, tuple[bool, bool]]:
    """Give each open stream's (sent_end, received_end)."""
    return {key: (stream.sent_end, stream.received_end) for key, stream in end.protocol._streams.items()}


@given(STEPS)
def test_both_ends_agree_on_the_streams(steps: list[tuple[str, int, int]]) -> None:
    """Once everything has arrived, both ends hold the same streams in the same states."""
    traffic = Traffic()
    for step in steps:
        traffic.step(*step)
    traffic.settle()
    client, server = traffic.client.end, traffic.server.end
    assert half_closed(client) == {key: state[::-1] for key, state in half_closed(server).items()}


@given(STEPS)
def test_both_ends_agree_on_the_windows(steps: list[tuple[str, int, int]]) -> None:
    """Once everything has arrived, each may send exactly what the other would take."""
    traffic = Traffic()
    for step in steps:
        traffic.step(*step)
    traffic.settle()
    for sender, receiver in ((traffic.client, traffic.server), (traffic.server, traffic.client)):
        for stream_id, stream in sender.end.protocol._streams.items():
            if not stream.sent_end:
                assert stream.send.open == receiver.end.protocol._streams[stream_id].receive.open


@given(STEPS)
def test_no_byte_is_lost_or_doubled(steps: list[tuple[str, int, int]]) -> None:
    """A stream that nobody cut delivers exactly what was sent; any other, the beginning of it."""
    traffic = Traffic()
    for step in steps:
        traffic.step(*step)
    traffic.settle()
    lost = traffic.cut | {e.stream_id for e in traffic.client.end.heard if isinstance(e, StreamReset)}
    for sender, receiver in ((traffic.client, traffic.server), (traffic.server, traffic.client)):
        for stream_id, sent in sender.sent.items():
            received = payload_of(receiver.end.heard, stream_id)
            assert received == sent if stream_id not in lost else sent.startswith(received)


@given(STEPS)
def test_budget_is_whole_when_all_streams_are_gone(steps: list[tuple[str, int, int]]) -> None:
    """Whatever happened, window growth is given back with the last stream."""
    traffic = Traffic()
    for step in steps:
        traffic.step(*step)
    for stream_id in list(traffic.client.end.protocol._streams):
        traffic.client.end.protocol.reset_stream(stream_id)
    traffic.server.end.protocol.close()
    assert traffic.client.end.budget.free == traffic.server.end.budget.free == GROWTH_BUDGET


def conversation(steps: list[tuple[str, int, int]]) -> bytes:
    """Give all that a client sends in some conversation."""
    client = End(Role.CLIENT)
    wire = client.take_outbox()
    client.receive(End(Role.SERVER).take_outbox())
    streams: list[int] = []
    for action, which, amount in steps:
        stream_id = streams[which % len(streams)] if streams else 0
        match action:
            case "open" | "accept":
                streams.append(client.protocol.open_stream(AUTHORITY))
            case "client send" if stream_id:
                client.send_allowed(stream_id, bytes([which + 1]) * (amount % 5000))
            case "client reset" if stream_id:
                streams.remove(stream_id)
                client.protocol.reset_stream(stream_id)
            case "client end" if stream_id:
                streams.remove(stream_id)
                client.protocol.end_stream(stream_id)
            case "client ping":
                client.protocol.ping()
            case "server send" if stream_id:
                frame = hyperframe.frame.DataFrame(stream_id, b"padded", flags=["PADDED"], pad_length=which)
                wire += client.take_outbox() + frame.serialize()
            case _:
                pass
        wire += client.take_outbox()
    return wire


@given(STEPS, st.lists(st.integers(1, 60), max_size=200))
def test_any_chunking_gives_the_same_events(steps: list[tuple[str, int, int]], sizes: list[int]) -> None:
    """However the peer's bytes are cut up on their way, the events and the answers are the same."""
    wire = conversation(steps)
    whole, chunked = End(Role.SERVER), End(Role.SERVER)
    whole.receive(wire)
    position = 0
    for size in sizes:
        chunked.receive(wire[position : position + size])
        position += size
    chunked.receive(wire[position:])
    assert chunked.heard == whole.heard
    assert chunked.take_outbox() == whole.take_outbox()


@settings(max_examples=30)
@given(STEPS)
def test_byte_by_byte(steps: list[tuple[str, int, int]]) -> None:
    """The same when each byte comes alone."""
    wire = conversation(steps)[:3000]
    whole, chunked = End(Role.SERVER), End(Role.SERVER)
    whole.receive(wire)
    for position in range(len(wire)):
        chunked.receive(wire[position : position + 1])
    assert chunked.heard == whole.heard


def frame_of(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Give a frame of any kind, right or wrong."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


FRAMES = st.builds(
    frame_of,
    st.integers(0, 12),
    st.integers(0, 255),
    st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    st.one_of(st.binary(max_size=40), st.just(bytes(4)), st.just(bytes(8))),
)


NAMES = (":method", ":authority", ":status", ":path", ":scheme", ":protocol", "te", "host", "X", "x")
VALUES = ("CONNECT", "GET", "10.0.0.2:80", "200", "403", "1", "-20", "", "trailers", "\n", "é")
FIELDS = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES))
# Blocks that can be decoded, of fields that make sense or none.
HEADERS = st.builds(
    lambda kind, flags, stream_id, fields: frame_of(kind, flags, stream_id, hpack.Encoder().encode(fields)),
    st.sampled_from((1, 1, 5, 9)),
    st.sampled_from((4, 5, 0, 1, 4 | 8, 4 | 32)),
    st.integers(0, 9),
    st.lists(FIELDS, max_size=5),
)


@settings(max_examples=200)
@given(st.sampled_from(Role), st.lists(st.one_of(FRAMES, HEADERS, st.binary(max_size=30)), max_size=12))
def test_no_input_raises_anything_but_the_peers_fault(role: Role, wires: list[bytes]) -> None:
    """Whatever a peer sends, it is taken, ignored or called by its name: a RemoteProtocolError."""
    link = established()
    stream_id = link.accepted()
    link.request()
    end = link.client if role is Role.CLIENT else link.server
    try:
        for wire in wires:
            end.receive(wire)
            if end.protocol.sendable(stream_id):
                end.send(stream_id, b"x")
            end.take_outbox()
    except RemoteProtocolError:
        end.protocol.close()
    for each in list(end.protocol._streams):
        end.protocol.end_stream(each)
        end.protocol.reset_stream(each)


@given(st.lists(FRAMES, max_size=6))
def test_an_ended_stream_is_silent(wires: list[bytes]) -> None:
    """After `StreamEnded` or `StreamReset` of a stream no payload of it is given."""
    link = established()
    stream_id = link.accepted()
    link.client.protocol.end_stream(stream_id)
    link.news()
    try:
        for wire in wires:
            link.server.receive(wire)
    except RemoteProtocolError:
        pass
    assert payload_of(link.server.heard, stream_id) == b""
    assert StreamEnded(stream_id) not in link.server.heard


def test_a_link_is_silent_when_nothing_happens() -> None:
    """Two ends that have nothing to say send nothing: no answer is answered."""
    link: Link = established()
    link.client.protocol.ping()
    link.accepted()
    link.deliver()
    assert link.client.take_outbox() == link.server.take_outbox() == b""

"""Both ends of HTTP/2 joined by hand, and frames that no honest peer would send."""

from collections.abc import Iterable, Iterator

from node_proxy.dataplane.http.h2_blocks import frame_header, header_frames, write_block
from node_proxy.dataplane.http.h2_client_protocol import ClientProtocol
from node_proxy.dataplane.http.h2_events import H2Event
from node_proxy.dataplane.http.h2_protocol import H2Protocol
from node_proxy.dataplane.http.h2_server_protocol import ServerProtocol
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.message import Fields
from node_proxy.tunnel import frames
from node_proxy.tunnel.calm import Calm
from node_proxy.tunnel.windows import WindowBudget

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"api"), (b":path", b"/")]
POST: Fields = [(b":method", b"POST"), *GET[1:]]

NOW = 0.0


def server(limits: HttpLimits | None = None) -> ServerProtocol:
    """Give a server's end."""
    return ServerProtocol(limits=limits or HttpLimits(), budget=WindowBudget(1 << 20), calm=Calm(NOW))


def client(limits: HttpLimits | None = None) -> ClientProtocol:
    """Give a client's end."""
    return ClientProtocol(limits=limits or HttpLimits(), budget=WindowBudget(1 << 20), calm=Calm(NOW))


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """Give any frame."""
    return frame_header(kind, flags, stream, len(payload)) + payload


def settings(values: Iterable[tuple[int, int]] = ()) -> bytes:
    """Give SETTINGS."""
    payload = b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values)
    return frame(frames.SETTINGS, payload)


def heads(fields: Fields, *, stream: int = 1, end: bool = True) -> bytes:
    """Give a header block in its frames."""
    return header_frames(stream, write_block(fields), end_stream=end)


def data(payload: bytes, *, stream: int = 1, end: bool = False) -> bytes:
    """Give content."""
    return frame(frames.DATA, payload, flags=frames.END_STREAM if end else 0, stream=stream)


def feed(protocol: H2Protocol, received: bytes, *, now: float = NOW) -> list[H2Event]:
    """Let a protocol receive bytes, of which it must use all."""
    events, used = protocol.receive(memoryview(received), now)
    assert used == len(received)
    return events


def greeted(limits: HttpLimits | None = None, values: Iterable[tuple[int, int]] = ()) -> ServerProtocol:
    """Give a server that has the client's preface and settings, and no output."""
    protocol = server(limits)
    feed(protocol, PREFACE + settings(values))
    protocol.take_output()
    return protocol


def answered(values: Iterable[tuple[int, int]] = (), limits: HttpLimits | None = None) -> ClientProtocol:
    """Give a client that has the server's settings, and no output."""
    protocol = client(limits)
    feed(protocol, settings(values))
    protocol.take_output()
    return protocol


def sent(protocol: H2Protocol) -> list[tuple[int, int, int, bytes]]:
    """Take a protocol's output: kind, flags, stream and payload of each frame."""
    output = memoryview(protocol.take_output())
    found, position = [], 0
    while position < len(output):
        length, kind, flags, stream = frames.read_header(output, position)
        position += frames.FRAME_HEADER
        found.append((kind, flags, stream, bytes(output[position : position + length])))
        position += length
    return found


def resets(protocol: H2Protocol) -> list[tuple[int, int]]:
    """Take a protocol's output: stream and code of each RST_STREAM."""
    return [
        (stream, int.from_bytes(payload, "big"))
        for kind, _, stream, payload in sent(protocol)
        if kind == frames.RST_STREAM
    ]


def join(one: H2Protocol, other: H2Protocol) -> tuple[list[H2Event], list[H2Event]]:
    """Carry what each says to the other until both are silent; gives what each heard."""
    heard: tuple[list[H2Event], list[H2Event]] = ([], [])
    left = {id(one): b"", id(other): b""}
    while one.pending_output or other.pending_output:
        for speaker, hearer, events in ((one, other, heard[1]), (other, one, heard[0])):
            received = left[id(hearer)] + speaker.take_output()
            if received:
                found, used = hearer.receive(memoryview(received), NOW)
                events += found
                left[id(hearer)] = received[used:]
    return heard


def read_frames(received: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Give kind, stream and payload of each frame."""
    position = 0
    while position < len(received):
        length, kind, _, stream = frames.read_header(memoryview(received), position)
        position += frames.FRAME_HEADER + length
        yield kind, stream, received[position - length : position]


def kinds_of(received: bytes) -> list[int]:
    """Give the kinds of the frames."""
    return [kind for kind, _, _ in read_frames(received)]

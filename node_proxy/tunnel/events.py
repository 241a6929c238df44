"""What a tunnel's protocol tells its driver. Past tense, immutable, no behaviour. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Established:
    """The peer's first SETTINGS arrived: it has accepted our certificate and speaks HTTP/2."""


@dataclass(frozen=True, slots=True)
class StreamRequested:
    """The peer asks by CONNECT for `authority` (``address:port``); answer with accept or refuse."""

    stream_id: int
    authority: str
    headers: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class RequestRejected:
    """The peer asked for something that is no CONNECT; the protocol has refused it already."""

    stream_id: int
    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class StreamAccepted:
    """The peer answered our CONNECT with a 2xx."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamRefused:
    """The peer answered our CONNECT with another status; the stream is gone."""

    stream_id: int
    status: int
    reason: str


@dataclass(slots=True)
class DataReceived:
    """Bytes of a stream. `data` is a view of the driver's buffer: use it before the next read.

    Not frozen, since a frozen dataclass costs three times as much to make and one is made per frame.
    """

    stream_id: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer will send no more on this stream (END_STREAM)."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The stream is gone in both directions. `code` is the peer's HTTP/2 error code."""

    stream_id: int
    code: int


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """Sending may go on: on one stream, or on all of them when `stream_id` is 0."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class PeerDraining:
    """GOAWAY: the peer takes no new streams; those above `last_stream_id` were not looked at.

    `why` is what the peer says of it, if anything: text of a stranger, to be shown and never acted on.
    """

    last_stream_id: int
    code: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class PingAcknowledged:
    """The peer is alive."""


Event = (
    Established
    | StreamRequested
    | RequestRejected
    | StreamAccepted
    | StreamRefused
    | DataReceived
    | StreamEnded
    | StreamReset
    | WindowOpened
    | PeerDraining
    | PingAcknowledged
)

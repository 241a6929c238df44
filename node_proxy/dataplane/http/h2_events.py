"""What the protocol of an HTTP/2 connection tells its driver. Past tense, no behaviour. Pure."""

from dataclasses import dataclass

from node_proxy.dataplane.http.exchange import MessageRefused
from node_proxy.dataplane.http.message import Fields, RequestHead, ResponseHead


@dataclass(slots=True)
class RequestReceived:
    """The peer asks; its body ends with the `BodyEnded` of the stream."""

    stream_id: int
    head: RequestHead


@dataclass(slots=True)
class RequestRefused:
    """The peer sent what is no request; it was answered already, and its stream is gone."""

    stream_id: int
    refused: MessageRefused


@dataclass(slots=True)
class ResponseReceived:
    """The peer answers; after an informational answer, another follows."""

    stream_id: int
    head: ResponseHead


@dataclass(slots=True)
class DataReceived:
    """Bytes of a body. Say `delivered` when they were taken."""

    stream_id: int
    data: bytes


@dataclass(slots=True)
class BodyEnded:
    """The message is whole."""

    stream_id: int
    trailers: Fields


@dataclass(slots=True)
class StreamBroken:
    """The stream is gone before its messages were whole.

    `code` is of RFC 9113 section 7; `refused` says what was wrong when the other side's message was.
    """

    stream_id: int
    code: int
    by_peer: bool
    refused: MessageRefused | None = None


@dataclass(slots=True)
class WindowOpened:
    """More may be sent on a stream; 0 stands for all."""

    stream_id: int


@dataclass(slots=True)
class PeerDraining:
    """The peer takes no more streams (GOAWAY)."""

    code: int
    why: str


H2Event = (
    RequestReceived
    | RequestRefused
    | ResponseReceived
    | DataReceived
    | BodyEnded
    | StreamBroken
    | WindowOpened
    | PeerDraining
)

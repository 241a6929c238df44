"""Opening a tunnel's stream as a channel."""

from collections.abc import Sequence

import trio

from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.http.stream_channel import StreamChannel
from node_proxy.errors import NodeProxyError, TunnelRefused
from node_proxy.tunnel.connection import TunnelConnection
from node_proxy.tunnel.handlers import TUNNEL_CLOSED
from node_proxy.tunnel.http2 import CANCEL, REFUSED_STREAM


class StreamUnanswered(NodeProxyError):
    """A stream was reset before it was accepted; `again` if the very endpoint may well accept another.

    A draining peer refuses, a restarting one closes the tunnel: neither looked at it.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"reset before an answer ({code})")
        self.again = code in (TUNNEL_CLOSED, REFUSED_STREAM)


async def open_stream(
    context: WorkerContext,
    tunnel: TunnelConnection,
    authority: str,
    headers: Sequence[tuple[bytes, bytes]],
) -> StreamChannel:
    """Open a stream to `authority`, and wait until the peer has accepted it. Needs `tunnel.has_capacity`.

    Raises:
        TunnelRefused: the peer would not.
        StreamUnanswered: it did not say.
    Cancellation resets the stream.
    """
    opening = _Opening(context, tunnel)
    opening.stream_id = tunnel.open_stream(authority, opening, headers)
    try:
        await opening.answered.wait()
    except trio.Cancelled:
        opening.give_up()
        raise
    return opening.channel


class _Opening:
    """A stream's handler until it is accepted."""

    def __init__(self, context: WorkerContext, tunnel: TunnelConnection) -> None:
        self._context = context
        self._tunnel = tunnel
        self._channel: StreamChannel | None = None
        self._failure: NodeProxyError | None = None
        self.answered = trio.Event()
        self.stream_id = 0

    @property
    def channel(self) -> StreamChannel:
        """What there is once it is answered.

        Raises:
            TunnelRefused, StreamUnanswered: there is none.
        """
        if self._channel is None:
            raise self._failure or StreamUnanswered(CANCEL)
        return self._channel

    def give_up(self) -> None:
        """Reset what there is."""
        if self._channel is not None:
            self._channel.abort()
        elif self._failure is None:
            self._tunnel.reset_stream(self.stream_id, CANCEL)

    def on_accepted(self) -> None:
        """Hand over at once: the other side may speak first."""
        self._channel = StreamChannel(
            self._tunnel, self.stream_id, backlog=self._context.backlog, buffer=self._context.relay_buffer
        )
        self._tunnel.set_handler(self.stream_id, self._channel)
        self.answered.set()

    def on_refused(self, status: int, reason: str) -> None:
        """Tell why not."""
        self._failure = TunnelRefused(status, reason)
        self.answered.set()

    def on_reset(self, code: int) -> None:
        """Tell that there was no answer."""
        self._failure = StreamUnanswered(code)
        self.answered.set()

    def on_data(self, _data: memoryview) -> None:
        """Payload before an answer: the protocol resets such a stream itself."""

    def on_ended(self) -> None:
        """An end before an answer is followed by a reset or a refusal."""

    def on_writable(self) -> None:
        """Nothing is sent before an answer."""

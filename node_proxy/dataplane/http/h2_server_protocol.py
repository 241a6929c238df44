"""The server's end of HTTP/2 with workloads, without I/O. Pure."""

from typing import ClassVar

from node_proxy.dataplane.http.exchange import MessageRefused
from node_proxy.dataplane.http.h2_events import BodyEnded, H2Event, RequestReceived, RequestRefused
from node_proxy.dataplane.http.h2_fields import read_request, response_fields
from node_proxy.dataplane.http.h2_protocol import H2Protocol
from node_proxy.dataplane.http.h2_streams import MAX_CONCURRENT_STREAMS, Stream, too_many_streams
from node_proxy.dataplane.http.local_answer import refusal_answer
from node_proxy.dataplane.http.message import ResponseHead
from node_proxy.tunnel.headers import HeaderBlock
from node_proxy.tunnel.http2 import NO_ERROR, REFUSED_STREAM, Role


class ServerProtocol(H2Protocol):
    """The end that is asked."""

    ROLE: ClassVar[Role] = Role.SERVER
    FAULT_STATUS: ClassVar[int] = 400

    def send_response(self, stream_id: int, head: ResponseHead, *, end: bool) -> None:
        """Answer, or inform; the stream may be gone already."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if head.status >= 200:
            self._calm.credit()
        self._send_block(stream_id, stream, response_fields(head, ended=end), end=end)

    def _peer_drains(self, last: int, events: list[H2Event]) -> None:
        """We open no streams, so none is lost."""

    def _receive_head(self, block: HeaderBlock, stream: Stream | None, events: list[H2Event]) -> bool:
        stream_id = block.stream_id
        if stream is not None or stream_id % 2 == 0 or stream_id <= self._highest_peer_stream:
            return False
        self._highest_peer_stream = stream_id
        full = len(self._streams) >= MAX_CONCURRENT_STREAMS
        stream = self._streams[stream_id] = Stream(self._initial_send_window, self._budget)
        stream.received_end = block.end_stream
        if full:
            events.append(RequestRefused(stream_id, too_many_streams()))
        if full or (self._refuse_above is not None and stream_id > self._refuse_above):
            # Section 8.7: it tells the peer that a retry is safe.
            self.reset_stream(stream_id, REFUSED_STREAM)
            return True
        try:
            head = read_request(block.fields, ended=block.end_stream, limits=self._limits)
        except MessageRefused as refused:
            self._answer_refused(stream_id, stream, block, refused)
            events.append(RequestRefused(stream_id, refused))
            return True
        stream.begun = True
        stream.remaining = head.length
        events.append(RequestReceived(stream_id, head))
        if block.end_stream:
            events.append(BodyEnded(stream_id, []))
        return True

    def _answer_refused(
        self, stream_id: int, stream: Stream, block: HeaderBlock, refused: MessageRefused
    ) -> None:
        head, body = refusal_answer(refused, method=dict(block.fields).get(b":method"), fields=block.fields)
        if len(body) > self.sendable(stream_id):
            # Where the window has no room for a sentence, the header alone must do.
            head.length, body = None, b""
        self._send_block(stream_id, stream, response_fields(head, ended=not body), end=not body)
        if body:
            # Not `send_data`: what was refused has earned no credit for more.
            self._send_data(stream_id, stream, body, end=True)
        # The peer may send on without knowing; NO_ERROR tells it to stop (section 8.1).
        self.reset_stream(stream_id, NO_ERROR)

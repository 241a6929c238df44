"""The client's end of HTTP/2 with workloads, without I/O. Pure."""

from typing import ClassVar

from node_proxy.dataplane.http.exchange import MessageRefused
from node_proxy.dataplane.http.h2_events import H2Event, ResponseReceived, StreamBroken
from node_proxy.dataplane.http.h2_fields import read_response, request_fields
from node_proxy.dataplane.http.h2_protocol import H2Protocol
from node_proxy.dataplane.http.h2_sending import LAST_STREAM_ID
from node_proxy.dataplane.http.h2_streams import MAX_CONCURRENT_STREAMS, Stream
from node_proxy.dataplane.http.message import RequestHead, has_no_body
from node_proxy.errors import LocalProtocolError
from node_proxy.tunnel.headers import HeaderBlock
from node_proxy.tunnel.http2 import PROTOCOL_ERROR, REFUSED_STREAM, Role

# What a client assumes before the peer's SETTINGS (section 6.5.2 recommends no less than 100).
ASSUMED_STREAMS = 100


class ClientProtocol(H2Protocol):
    """The end that asks."""

    ROLE: ClassVar[Role] = Role.CLIENT
    FAULT_STATUS: ClassVar[int] = 502

    @property
    def greeted(self) -> bool:
        """Whether the peer has sent its SETTINGS: then it speaks HTTP/2."""
        return not self._settings_due

    @property
    def room(self) -> int:
        """How many more requests we may send."""
        if self.draining or self._highest_own_stream >= LAST_STREAM_ID - 1:
            return 0
        limit = ASSUMED_STREAMS if self._settings_due else self._h2.remote_settings.max_concurrent_streams
        return max(0, min(limit, MAX_CONCURRENT_STREAMS) - len(self._streams))

    def send_request(self, head: RequestHead, *, end: bool) -> int:
        """Ask; gives the stream's id. Needs `room`."""
        if not self.room:
            raise LocalProtocolError("this end may not ask now")
        stream_id = self._highest_own_stream + 2 if self._highest_own_stream else 1
        self._highest_own_stream = stream_id
        # The peer's answer was asked for, so it is no flood.
        self._calm.credit()
        stream = self._streams[stream_id] = Stream(self._initial_send_window, self._budget, head.method)
        self._send_block(stream_id, stream, request_fields(head, ended=end), end=end)
        return stream_id

    def _peer_drains(self, last: int, events: list[H2Event]) -> None:
        for stream_id in [each for each in self._streams if each > last]:
            self._forget(stream_id)
            events.append(StreamBroken(stream_id, REFUSED_STREAM, by_peer=True))

    def _receive_head(self, block: HeaderBlock, stream: Stream | None, events: list[H2Event]) -> bool:
        if stream is None:
            return False
        stream_id = block.stream_id
        try:
            head = read_response(
                block.fields, method=stream.method, ended=block.end_stream, limits=self._limits
            )
        except MessageRefused as refused:
            self._break_stream(stream_id, PROTOCOL_ERROR, events, refused)
            return True
        if head.status < 200:
            stream.informed += 1
            if stream.informed > self._limits.informational:
                self._refuse_message(stream_id, "informational answers without end", events)
                return True
        else:
            stream.begun = True
            nothing_follows = block.end_stream or has_no_body(stream.method, head.status)
            stream.remaining = 0 if nothing_follows else head.length
        events.append(ResponseReceived(stream_id, head))
        if block.end_stream:
            self._receive_end(stream_id, stream, [], events)
        return True

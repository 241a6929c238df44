"""RFC 9113 sections 5.1 (stream states), 6.1 (DATA) and 6.4 (RST_STREAM), between two of ours."""

import hpack
import hyperframe.frame
import pytest

from node_proxy.tunnel import frames
from node_proxy.tunnel.events import StreamEnded, StreamRefused, StreamReset
from node_proxy.tunnel.headers import write_accepted
from node_proxy.tunnel.http2 import CANCEL
from node_proxy.tunnel.protocol import REMEMBERED_RESETS
from node_proxy.tunnel.windows import INITIAL_WINDOW
from tests.fakes.hostile import breaks, connect
from tests.fakes.link import AUTHORITY, data, established


class TestData:
    def test_both_ways(self) -> None:
        """Payload passes in both directions of one stream."""
        link = established()
        stream_id = link.accepted()
        link.client.send(stream_id, b"question")
        link.server.send(stream_id, b"answer")
        assert link.news() == ([data(stream_id, b"answer")], [data(stream_id, b"question")])

    def test_client_may_send_before_the_answer(self) -> None:
        """Payload right behind a CONNECT is given to the server's handler."""
        link = established()
        stream_id = link.request()
        link.client.send(stream_id, b"early")
        assert link.news()[1] == [data(stream_id, b"early")]

    def test_streams_are_told_apart(self) -> None:
        """Payload arrives on the stream it was sent on."""
        link = established()
        first, second = link.accepted(), link.accepted()
        link.client.send(second, b"two")
        link.client.send(first, b"one")
        assert link.news()[1] == [data(second, b"two"), data(first, b"one")]

    def test_padding_is_stripped_and_credited(self) -> None:
        """Padding never reaches the reader, and its bytes come back as credit (RFC 9113 section 6.1)."""
        link = established()
        stream_id = link.accepted()
        padded = hyperframe.frame.DataFrame(stream_id, b"payload", flags=["PADDED"], pad_length=200)
        credit = 0
        for _ in range(2 * INITIAL_WINDOW // 208):
            assert link.server.receive(padded.serialize()) == [data(stream_id, b"payload")]
            link.server.protocol.delivered(stream_id, len(b"payload"), prompt=False)
            credit += link.server.protocol.take_output().count(b"\x00\x00\x04\x08")
        assert credit >= 3

    def test_frame_of_padding_alone(self) -> None:
        """A frame that carries nothing but padding is no payload."""
        link = established()
        stream_id = link.accepted()
        frame = hyperframe.frame.DataFrame(stream_id, b"", flags=["PADDED"], pad_length=10)
        assert link.server.receive(frame.serialize()) == []

    def test_padded_end(self) -> None:
        """END_STREAM on a padded frame ends the stream behind its payload."""
        link = established()
        stream_id = link.accepted()
        frame = hyperframe.frame.DataFrame(stream_id, b"last", flags=["PADDED", "END_STREAM"], pad_length=3)
        assert link.server.receive(frame.serialize()) == [data(stream_id, b"last"), StreamEnded(stream_id)]


class TestEnd:
    def test_client_ends_first(self) -> None:
        """After the client's END_STREAM the server's payload still flows."""
        link = established()
        stream_id = link.accepted()
        link.client.send(stream_id, b"question")
        link.client.protocol.end_stream(stream_id)
        assert link.news()[1] == [data(stream_id, b"question"), StreamEnded(stream_id)]
        link.server.send(stream_id, b"answer")
        link.server.protocol.end_stream(stream_id)
        assert link.news()[0] == [data(stream_id, b"answer"), StreamEnded(stream_id)]

    def test_server_ends_first(self) -> None:
        """After the server's END_STREAM the client's payload still flows."""
        link = established()
        stream_id = link.accepted()
        link.server.protocol.end_stream(stream_id)
        assert link.news()[0] == [StreamEnded(stream_id)]
        link.client.send(stream_id, b"more")
        link.client.protocol.end_stream(stream_id)
        assert link.news()[1] == [data(stream_id, b"more"), StreamEnded(stream_id)]

    def test_both_ends_forget(self) -> None:
        """A stream that has ended both ways is kept at neither end."""
        link = established()
        stream_id = link.accepted()
        link.client.protocol.end_stream(stream_id)
        link.server.protocol.end_stream(stream_id)
        link.deliver()
        assert link.client.protocol.open_streams == link.server.protocol.open_streams == 0

    def test_end_with_payload(self) -> None:
        """END_STREAM on a frame with payload, as other peers send it, ends the stream behind it."""
        link = established()
        stream_id = link.accepted()
        frame = hyperframe.frame.DataFrame(stream_id, b"last", flags=["END_STREAM"])
        assert link.server.receive(frame.serialize()) == [data(stream_id, b"last"), StreamEnded(stream_id)]

    def test_ending_twice(self) -> None:
        """Ending a stream again sends nothing."""
        link = established()
        stream_id = link.accepted()
        link.client.protocol.end_stream(stream_id)
        link.client.take_outbox()
        link.client.protocol.end_stream(stream_id)
        assert link.client.take_outbox() == b""

    def test_nothing_is_sendable_after_the_end(self) -> None:
        """An ended stream has no room for payload."""
        link = established()
        stream_id = link.accepted()
        link.client.protocol.end_stream(stream_id)
        assert link.client.protocol.sendable(stream_id) == 0


class TestReset:
    @pytest.mark.parametrize("code", [CANCEL, 0, 2])
    def test_reset_tells_its_code(self, code: int) -> None:
        """The other end hears of a reset with its code, once."""
        link = established()
        stream_id = link.accepted()
        link.client.protocol.reset_stream(stream_id, code)
        assert link.news() == ([], [StreamReset(stream_id, code)])

    def test_reset_by_the_server(self) -> None:
        """A server resets as a client does."""
        link = established()
        stream_id = link.accepted()
        link.server.protocol.reset_stream(stream_id, CANCEL)
        assert link.news() == ([StreamReset(stream_id, CANCEL)], [])

    def test_resets_that_cross(self) -> None:
        """When both reset at once neither hears of it, and the tunnel goes on."""
        link = established()
        stream_id = link.accepted()
        link.client.protocol.reset_stream(stream_id)
        link.server.protocol.reset_stream(stream_id)
        assert link.news() == ([], [])
        assert link.accepted() > stream_id

    def test_payload_that_crosses_a_reset(self) -> None:
        """Payload for a stream that was reset meanwhile is dropped."""
        link = established()
        stream_id = link.accepted()
        link.server.send(stream_id, b"late")
        link.client.protocol.reset_stream(stream_id)
        assert link.news() == ([], [StreamReset(stream_id, CANCEL)])

    def test_resetting_twice(self) -> None:
        """A stream that is gone can be reset without harm."""
        link = established()
        stream_id = link.accepted()
        link.client.protocol.reset_stream(stream_id)
        link.deliver()
        link.client.protocol.reset_stream(stream_id)
        assert link.client.take_outbox() == b""

    def test_reset_of_one_stream_leaves_the_others(self) -> None:
        """Streams are reset one by one."""
        link = established()
        first, second = link.accepted(), link.accepted()
        link.client.protocol.reset_stream(first)
        link.client.send(second, b"alive")
        assert link.news()[1] == [StreamReset(first, CANCEL), data(second, b"alive")]


LATE = {
    "data": hyperframe.frame.DataFrame(1, b"late").serialize(),
    "window-update": hyperframe.frame.WindowUpdateFrame(1, window_increment=1).serialize(),
    "reset": hyperframe.frame.RstStreamFrame(1, error_code=8).serialize(),
    "priority": hyperframe.frame.PriorityFrame(1, depends_on=0).serialize(),
}


class TestLate:
    @pytest.mark.parametrize("frame", LATE.values(), ids=LATE)
    def test_frame_of_a_stream_that_has_ended(self, frame: bytes) -> None:
        """Frames but HEADERS that come when both ends have ended are dropped, at either end."""
        link = established()
        assert link.accepted() == 1
        link.client.protocol.end_stream(1)
        link.server.protocol.end_stream(1)
        link.news()
        assert link.client.receive(frame) == link.server.receive(frame) == []
        assert link.client.take_outbox() == link.server.take_outbox() == b""

    @pytest.mark.parametrize("frame", LATE.values(), ids=LATE)
    def test_frame_of_a_stream_that_was_reset(self, frame: bytes) -> None:
        """The same of a stream that we reset: the peer may not know yet (section 5.1)."""
        link = established()
        assert link.accepted() == 1
        link.client.protocol.reset_stream(1)
        link.client.take_outbox()
        assert link.client.receive(frame) == []
        assert link.client.take_outbox() == b""

    def test_headers_of_a_stream_that_has_ended(self) -> None:
        """HEADERS when both ends have ended are no accident and end the connection."""
        link = established()
        stream_id = link.accepted()
        link.client.protocol.end_stream(stream_id)
        link.server.protocol.end_stream(stream_id)
        link.news()
        assert breaks(link.server, connect(stream_id))

    def test_headers_of_a_stream_that_the_peer_reset(self) -> None:
        """Nor does anybody send HEADERS behind his own reset."""
        link = established()
        link.server.receive(connect(1) + LATE["reset"])
        assert breaks(link.server, connect(1))

    def test_late_headers_are_read(self) -> None:
        """The next answer may be compressed against a late one that nobody waits for (section 4.3)."""
        link = established()
        late, next_one = link.request(), link.request()
        link.client.protocol.reset_stream(late)
        encoder = hpack.Encoder()
        fields = [(b":status", b"403"), (b"nodemesh-reason", b"denied")]
        link.client.receive(frames.headers(late, bytes(encoder.encode(fields))))
        answer = frames.headers(next_one, bytes(encoder.encode(fields)))
        assert link.client.receive(answer) == [StreamRefused(next_one, 403, "denied")]

    def test_refused_requests_are_read(self) -> None:
        """The block of a request beyond the limit counts for the next one as well."""
        link = established()
        encoder = hpack.Encoder()
        fields = [(b":method", b"CONNECT"), (b":authority", b"10.0.0.2:8080")]
        link.server.protocol.drain()
        assert link.server.receive(frames.headers(1, bytes(encoder.encode(fields)))) == []
        second = bytes(encoder.encode(fields))
        assert len(second) == 2
        assert link.server.receive(frames.headers(3, second)) == []

    def test_as_many_late_answers_as_are_remembered(self) -> None:
        """Answers to thousands of streams that were given up meanwhile harm nobody."""
        link = established()
        for _ in range(REMEMBERED_RESETS):
            link.client.protocol.reset_stream(link.client.protocol.open_stream(AUTHORITY))
        assert link.client.protocol.open_streams == 0
        for stream_id in range(1, 2 * REMEMBERED_RESETS, 2):
            link.client.now += 1.0
            assert link.client.receive(frames.headers(stream_id, write_accepted())) == []

    def test_trailers_that_cross_a_refusal(self) -> None:
        """A client that has not heard of its refusal yet may end its payload with trailers."""
        link = established()
        stream_id = link.request()
        link.server.protocol.refuse_stream(stream_id, 403, "denied")
        trailers = frames.headers(stream_id, bytes(hpack.Encoder().encode([(b"x", b"1")])), end_stream=True)
        assert link.server.receive(trailers) == []


class TestClose:
    def test_streams_are_forgotten_with_their_growth(self) -> None:
        """When the connection is gone so is every stream, and the budget is whole."""
        link = established()
        stream_id = link.accepted()
        free = link.server.budget.free
        for _ in range(8):
            link.client.send_allowed(stream_id, bytes(INITIAL_WINDOW // 4))
            link.deliver()
            link.server.protocol.delivered(stream_id, INITIAL_WINDOW // 4, prompt=True)
            link.deliver()
        assert link.server.budget.free < free
        link.server.protocol.close()
        assert (link.server.protocol.open_streams, link.server.budget.free) == (0, free)

    def test_orders_after_the_close_do_nothing(self) -> None:
        """A handler that is late finds its stream gone, and no error."""
        link = established()
        stream_id = link.accepted()
        link.client.protocol.close()
        link.client.protocol.end_stream(stream_id)
        link.client.protocol.reset_stream(stream_id)
        link.client.protocol.delivered(stream_id, 10**6, prompt=True)
        assert link.client.protocol.sendable(stream_id) == 0
        assert not link.client.protocol.has_capacity
        assert link.client.take_outbox() == b""

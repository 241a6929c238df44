"""RFC 9113 sections 5.2 and 6.9 (flow control), 6.5.2 and 6.9.2 (settings that change it)."""

import hyperframe.frame
import pytest

from node_proxy.errors import LocalProtocolError, RemoteProtocolError
from node_proxy.tunnel.events import Event, StreamReset, WindowOpened
from node_proxy.tunnel.frames import FRAME_HEADER, MAX_WINDOW
from node_proxy.tunnel.http2 import CANCEL
from node_proxy.tunnel.protocol import CONNECTION_WINDOW
from node_proxy.tunnel.windows import INITIAL_WINDOW
from tests.fakes.link import Link, data, established, fill, payload_of

# RFC 9113 section 7.
PROTOCOL_ERROR = 1
FLOW_CONTROL_ERROR = 3
QUARTER = INITIAL_WINDOW // 4


def settings(**values: int) -> bytes:
    """Give a SETTINGS frame with values by their names in hyperframe."""
    named = {getattr(hyperframe.frame.SettingsFrame, name): value for name, value in values.items()}
    return hyperframe.frame.SettingsFrame(0, settings=named).serialize()


def window_update(stream_id: int, increment: int) -> bytes:
    """Give a WINDOW_UPDATE frame, by another implementation than the one under test."""
    return hyperframe.frame.WindowUpdateFrame(stream_id, window_increment=increment).serialize()


def goaway_code(wire: bytes) -> int:
    """Give the error code of the GOAWAY that `wire` ends with."""
    frame, length = hyperframe.frame.Frame.parse_frame_header(memoryview(wire[-17:])[:FRAME_HEADER])
    frame.parse_body(memoryview(wire[-length:]))
    assert isinstance(frame, hyperframe.frame.GoAwayFrame)
    return frame.error_code


class TestSending:
    def test_window_is_exhausted(self) -> None:
        """A sender whose reader takes nothing stops after the initial window."""
        link = established()
        stream_id = link.accepted()
        assert fill(link, stream_id) == INITIAL_WINDOW
        assert link.client.protocol.sendable(stream_id) == 0

    def test_no_credit_before_delivery(self) -> None:
        """Bytes that have arrived and were not taken open no window."""
        link = established()
        stream_id = link.accepted()
        fill(link, stream_id)
        assert link.news()[0] == []

    def test_delivery_opens_the_window(self) -> None:
        """What the reader took may be sent again."""
        link = established()
        stream_id = link.accepted()
        fill(link, stream_id)
        link.deliver()
        link.server.protocol.delivered(stream_id, INITIAL_WINDOW // 2, prompt=False)
        assert link.news()[0] == [WindowOpened(stream_id)]
        assert fill(link, stream_id) == INITIAL_WINDOW // 2

    def test_no_credit_after_the_end(self) -> None:
        """A peer that will send no more is told of no window."""
        link = established()
        stream_id = link.accepted()
        fill(link, stream_id)
        link.client.protocol.end_stream(stream_id)
        link.news()
        link.server.protocol.delivered(stream_id, INITIAL_WINDOW, prompt=True)
        assert link.server.take_outbox() == b""

    def test_prompt_reader_lets_the_window_grow(self) -> None:
        """After two windows taken at once, twice as much may be under way."""
        link = established()
        stream_id = link.accepted()
        for _ in range(8):
            link.client.send_allowed(stream_id, bytes(QUARTER))
            link.deliver()
            link.server.protocol.delivered(stream_id, QUARTER, prompt=True)
            link.deliver()
        assert fill(link, stream_id) == 2 * INITIAL_WINDOW

    def test_growth_is_returned_with_the_stream(self) -> None:
        """However a stream ends, the budget gets its growth back."""
        link = established()
        free = link.server.budget.free
        for end in (link.client.protocol.reset_stream, link.server.protocol.reset_stream):
            stream_id = link.accepted()
            for _ in range(8):
                link.client.send_allowed(stream_id, bytes(QUARTER))
                link.deliver()
                link.server.protocol.delivered(stream_id, QUARTER, prompt=True)
                link.deliver()
            assert link.server.budget.free < free
            end(stream_id)
            link.news()
            assert link.server.budget.free == free

    def test_stalled_stream_does_not_hold_up_another(self) -> None:
        """The connection's window is credited on receipt, so one stalled reader stalls one stream."""
        link = established()
        streams = [link.accepted() for _ in range(CONNECTION_WINDOW // INITIAL_WINDOW + 8)]
        for stream_id in streams:
            assert fill(link, stream_id) == INITIAL_WINDOW
            link.deliver()

    def test_connection_window_is_shared(self) -> None:
        """Streams together send no more than the connection's window before the peer credits it."""
        link = established()
        streams = [link.accepted() for _ in range(CONNECTION_WINDOW // INITIAL_WINDOW + 8)]
        assert sum(fill(link, stream_id) for stream_id in streams) == CONNECTION_WINDOW

    def test_connection_credit_is_told_of(self) -> None:
        """Credit for the connection opens the window of all streams: WindowOpened(0)."""
        link = established()
        streams = [link.accepted() for _ in range(CONNECTION_WINDOW // INITIAL_WINDOW + 8)]
        for stream_id in streams:
            fill(link, stream_id)
        assert WindowOpened(0) in link.news()[0]
        assert link.client.protocol.sendable(streams[-1]) > 0

    def test_sending_more_than_allowed_is_our_bug(self) -> None:
        """A driver that does not ask `sendable` first is told so."""
        link = established()
        stream_id = link.accepted()
        with pytest.raises(LocalProtocolError):
            link.client.send(stream_id, bytes(link.client.protocol.sendable(stream_id) + 1))

    def test_frames_respect_the_peers_limit(self) -> None:
        """No frame is larger than the peer's SETTINGS_MAX_FRAME_SIZE."""
        link = established()
        stream_id = link.accepted()
        link.client.receive(settings(MAX_FRAME_SIZE=16_384))
        assert link.client.protocol.sendable(stream_id) == 16_384

    def test_large_limit_is_not_used_up(self) -> None:
        """A frame and its header fit into 64 KiB, which is four TLS records, whatever the peer allows."""
        link = established()
        stream_id = link.accepted()
        link.client.receive(settings(MAX_FRAME_SIZE=2**24 - 1))
        assert link.client.protocol.sendable(stream_id) + FRAME_HEADER == 65_536

    def test_unknown_stream_sends_nothing(self) -> None:
        """A stream that is gone has no room."""
        assert established().client.protocol.sendable(99) == 0


class TestSettings:
    def test_larger_initial_window_opens_all_streams(self) -> None:
        """A larger initial window grows that of open streams too, and says so."""
        link = established()
        stream_id = link.accepted()
        fill(link, stream_id)
        assert link.client.receive(settings(INITIAL_WINDOW_SIZE=INITIAL_WINDOW + 10)) == [WindowOpened(0)]
        assert fill(link, stream_id) == 10

    def test_smaller_initial_window_may_turn_negative(self) -> None:
        """What was sent under a larger window must be credited before more is sent (section 6.9.2)."""
        link = established()
        stream_id = link.accepted()
        fill(link, stream_id)
        assert link.client.receive(settings(INITIAL_WINDOW_SIZE=INITIAL_WINDOW - 1000)) == []
        assert link.client.protocol.sendable(stream_id) == 0
        link.client.receive(window_update(stream_id, 1000))
        assert link.client.protocol.sendable(stream_id) == 0
        link.client.receive(window_update(stream_id, 1))
        assert link.client.protocol.sendable(stream_id) == 1

    def test_initial_window_of_zero(self) -> None:
        """A peer may allow nothing at first and credit each stream by hand."""
        link = established()
        link.client.receive(settings(INITIAL_WINDOW_SIZE=0))
        stream_id = link.accepted()
        assert link.client.protocol.sendable(stream_id) == 0
        assert link.client.receive(window_update(stream_id, 5)) == [WindowOpened(stream_id)]
        assert link.client.protocol.sendable(stream_id) == 5

    def test_end_with_a_negative_window(self) -> None:
        """END_STREAM needs no window."""
        link = established()
        stream_id = link.accepted()
        fill(link, stream_id)
        link.client.receive(settings(INITIAL_WINDOW_SIZE=0))
        link.client.protocol.end_stream(stream_id)
        assert len(payload_of(link.news()[1], stream_id)) == INITIAL_WINDOW

    def test_settings_that_overflow_a_window(self) -> None:
        """A window pushed past 2^31-1 by SETTINGS is a connection error (section 6.9.2)."""
        link = established()
        stream_id = link.accepted()
        link.client.receive(window_update(stream_id, MAX_WINDOW - INITIAL_WINDOW))
        with pytest.raises(RemoteProtocolError) as raised:
            link.client.receive(settings(INITIAL_WINDOW_SIZE=INITIAL_WINDOW + 1))
        assert raised.value.code == FLOW_CONTROL_ERROR


class TestViolations:
    @staticmethod
    def _overfill(link: Link, stream_id: int) -> list[Event]:
        frame = hyperframe.frame.DataFrame(stream_id, bytes(QUARTER)).serialize()
        return [event for _ in range(5) for event in link.server.receive(frame)]

    def test_overfull_stream_is_reset(self) -> None:
        """A peer that sends more than a stream's window loses that stream (section 6.9.1)."""
        link = established()
        stream_id = link.accepted()
        assert self._overfill(link, stream_id)[-1] == StreamReset(stream_id, FLOW_CONTROL_ERROR)
        assert link.news()[0] == [StreamReset(stream_id, FLOW_CONTROL_ERROR)]

    def test_other_streams_go_on(self) -> None:
        """A flow-control violation costs no other stream."""
        link = established()
        broken, healthy = link.accepted(), link.accepted()
        self._overfill(link, broken)
        link.news()
        link.client.send(healthy, b"alive")
        assert link.news()[1] == [data(healthy, b"alive")]

    def test_padding_counts(self) -> None:
        """Padding uses up the window as payload does (section 6.1)."""
        link = established()
        stream_id = link.accepted()
        frame = hyperframe.frame.DataFrame(stream_id, bytes(1000), flags=["PADDED"], pad_length=255)
        heard: list[Event] = []
        while not any(isinstance(event, StreamReset) for event in heard):
            heard += link.server.receive(frame.serialize())
        # Padding itself is credited at once, so only the payload can fill the window.
        assert INITIAL_WINDOW // 2 <= len(payload_of(heard, stream_id)) <= INITIAL_WINDOW

    def test_empty_increment_resets_the_stream(self) -> None:
        """A WINDOW_UPDATE of 0 is a stream error on a stream (section 6.9)."""
        link = established()
        stream_id = link.accepted()
        assert link.server.receive(window_update(stream_id, 1)[:-1] + b"\0") == [
            StreamReset(stream_id, PROTOCOL_ERROR)
        ]

    def test_empty_increment_on_the_connection(self) -> None:
        """A WINDOW_UPDATE of 0 on stream 0 ends the connection (section 6.9)."""
        link = established()
        with pytest.raises(RemoteProtocolError) as raised:
            link.server.receive(window_update(0, 1)[:-1] + b"\0")
        assert raised.value.code == PROTOCOL_ERROR
        assert goaway_code(link.server.take_outbox()) == PROTOCOL_ERROR

    def test_overflowing_increment_resets_the_stream(self) -> None:
        """A stream's window past 2^31-1 is a stream error (section 6.9.1)."""
        link = established()
        stream_id = link.accepted()
        heard = link.server.receive(window_update(stream_id, MAX_WINDOW))
        assert heard == [StreamReset(stream_id, FLOW_CONTROL_ERROR)]

    def test_overflowing_increment_on_the_connection(self) -> None:
        """The connection's window past 2^31-1 ends the connection (section 6.9.1)."""
        link = established()
        with pytest.raises(RemoteProtocolError) as raised:
            link.server.receive(window_update(0, MAX_WINDOW))
        assert raised.value.code == FLOW_CONTROL_ERROR
        assert goaway_code(link.server.take_outbox()) == FLOW_CONTROL_ERROR

    def test_late_window_update(self) -> None:
        """Credit for a stream that has ended is ignored."""
        link = established()
        stream_id = link.accepted()
        link.server.protocol.reset_stream(stream_id, CANCEL)
        assert link.server.receive(window_update(stream_id, 1)) == []

    def test_data_for_an_ended_stream_is_still_credited_to_the_connection(self) -> None:
        """Dropped payload does not leak the connection's window."""
        link = established()
        for _ in range(2 * CONNECTION_WINDOW // INITIAL_WINDOW):
            stream_id = link.accepted()
            fill(link, stream_id)
            link.server.protocol.reset_stream(stream_id)
            link.news()
        assert fill(link, link.accepted()) == INITIAL_WINDOW

"""RFC 9113 section 10.5: peers that make us work for nothing, and working ones that only look like them."""

import struct
from collections.abc import Callable

import hpack
import hyperframe.frame
import pytest

from node_proxy.errors import RemoteProtocolError
from node_proxy.tunnel.calm import CAPACITY, REFILL_PER_SECOND
from node_proxy.tunnel.frames import FRAME_HEADER, headers, rst_stream
from node_proxy.tunnel.headers import write_request
from node_proxy.tunnel.http2 import CANCEL, MAX_CONCURRENT_STREAMS, REFUSED_STREAM
from tests.fakes.hostile import ENHANCE_YOUR_CALM, PING, breaks, connect, request_headers
from tests.fakes.link import AUTHORITY, established


def _flood_of_resets(count: int) -> bytes:
    reset = hyperframe.frame.RstStreamFrame
    return b"".join(
        connect(stream_id) + reset(stream_id, error_code=8).serialize()
        for stream_id in range(3, 3 + 2 * count, 2)
    )


def _flood_of_resets_with_payload(count: int) -> bytes:
    """Give resets whose payload comes early, and late, to earn what they cost."""
    return b"".join(
        connect(stream_id)
        + hyperframe.frame.DataFrame(stream_id, b"x").serialize()
        + hyperframe.frame.RstStreamFrame(stream_id, error_code=8).serialize()
        + hyperframe.frame.DataFrame(stream_id, b"x").serialize()
        for stream_id in range(3, 3 + 2 * count, 2)
    )


def _flood_of_broken_streams(count: int) -> bytes:
    """Give requests that make us reset their streams (CVE-2025-8671)."""
    return b"".join(
        connect(stream_id, "END_STREAM") + hyperframe.frame.DataFrame(stream_id, b"x").serialize()
        for stream_id in range(3, 3 + 2 * count, 2)
    )


def _settings(names: range) -> bytes:
    payload = b"".join(struct.pack(">HI", name, 1) for name in names)
    return len(payload).to_bytes(3, "big") + b"\x04\0\0\0\0\0" + payload


FLOODS: dict[str, Callable[[int], bytes]] = {
    "ping": lambda count: PING * count,
    "ping-answers": lambda count: hyperframe.frame.PingFrame(0, bytes(8), flags=["ACK"]).serialize() * count,
    "settings": lambda count: hyperframe.frame.SettingsFrame(0).serialize() * count,
    "rapid-reset": lambda count: _flood_of_resets(count // 2 + 1),
    "rapid-reset-with-payload": lambda count: _flood_of_resets_with_payload(count // 2 + 1),
    "made-to-reset": _flood_of_broken_streams,
    "empty-data": lambda count: hyperframe.frame.DataFrame(1, b"").serialize() * count,
    "tiny-window-updates": lambda count: (
        hyperframe.frame.WindowUpdateFrame(1, window_increment=1).serialize() * count
    ),
    "priority": lambda count: hyperframe.frame.PriorityFrame(1, depends_on=0).serialize() * count,
    "unknown": lambda count: b"\0\0\0\xfa\x00\0\0\0\0" * count,
}


class TestFloods:
    @pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
    def test_flood(self, flood: Callable[[int], bytes]) -> None:
        """Frames that cost us and carry nothing are answered with ENHANCE_YOUR_CALM (section 10.5)."""
        link = established()
        link.accepted()
        assert breaks(link.server, flood(int(CAPACITY) + 10), ENHANCE_YOUR_CALM)

    @pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
    def test_the_same_slowly(self, flood: Callable[[int], bytes]) -> None:
        """The same frames at half the rate that is earned back are no flood."""
        link = established()
        link.accepted()
        wire = flood(int(CAPACITY * 1.1))
        position = 0
        while position < len(wire):
            end = position
            for _ in range(100):
                if end < len(wire):
                    end += FRAME_HEADER + int.from_bytes(wire[end : end + 3], "big")
            link.server.now += 2 * 100 / REFILL_PER_SECOND
            link.server.receive(wire[position:end])
            link.server.take_outbox()
            position = end

    def test_client_may_open_all_its_streams_at_once(self) -> None:
        """A thousand streams opened and given up within a moment are no flood."""
        link = established()
        wire = _flood_of_resets(MAX_CONCURRENT_STREAMS)
        link.server.receive(wire)
        assert link.server.protocol.open_streams == 0

    def test_refusals_are_no_flood_to_the_one_who_asked(self) -> None:
        """A client may be refused as fast as it asks: each answer was asked for."""
        link = established()
        for _ in range(int(CAPACITY * 0.6)):
            stream_id = link.client.protocol.open_stream(AUTHORITY)
            link.server.now += 1.0
            link.server.receive(link.client.take_outbox())
            link.server.protocol.refuse_stream(stream_id, 403, "denied")
            link.client.receive(link.server.take_outbox())

    def test_too_many_streams(self) -> None:
        """Streams beyond those we allow are refused, so that they can be tried elsewhere (section 5.1.2)."""
        link = established()
        for stream_id in range(1, 2 * MAX_CONCURRENT_STREAMS + 1, 2):
            link.server.receive(connect(stream_id))
        assert link.server.protocol.open_streams == MAX_CONCURRENT_STREAMS
        link.server.take_outbox()
        excess = 2 * MAX_CONCURRENT_STREAMS + 1
        assert link.server.receive(connect(excess)) == []
        assert link.server.take_outbox() == rst_stream(excess, REFUSED_STREAM)
        assert link.server.protocol.open_streams == MAX_CONCURRENT_STREAMS

    def test_streams_beyond_the_limit_are_no_free_work(self) -> None:
        """A peer that goes on to open streams which are refused runs out of patience (section 5.1.2)."""
        link = established()
        streams = range(1, 2 * (int(CAPACITY) + 10), 2)
        assert breaks(link.server, b"".join(connect(each) for each in streams), ENHANCE_YOUR_CALM)

    def test_long_blocks_are_paid_for(self) -> None:
        """Header blocks that take long to read are a flood at a tenth of the number of short ones."""
        link = established()
        block = write_request(AUTHORITY, [(b"x", b"a" * 15_000)])
        streams = range(1, 2 * int(CAPACITY / 10), 2)
        wire = b"".join(headers(each, block) + rst_stream(each, CANCEL) for each in streams)
        assert breaks(link.server, wire, ENHANCE_YOUR_CALM)

    def test_unknown_settings_are_forgotten(self) -> None:
        """Settings that nobody has defined are ignored and leave nothing behind (section 6.5.2)."""
        link = established()
        before = dict(link.server.protocol._h2.remote_settings)
        for first in range(0x100, 0x1000, 32):
            link.server.receive(_settings(range(first, first + 32)))
        assert dict(link.server.protocol._h2.remote_settings) == before

    def test_too_many_settings(self) -> None:
        """SETTINGS that are longer than there could be a reason for are refused."""
        assert breaks(established().server, _settings(range(0x100, 0x100 + 33)), ENHANCE_YOUR_CALM)

    def test_endless_header_list(self) -> None:
        """A header list of more than 16 KiB is refused, however well it compresses (section 10.5.1)."""
        encoder = hpack.Encoder()
        block = encoder.encode([(":method", "CONNECT"), (":authority", AUTHORITY), ("x", "y" * 4000)])
        block += encoder.encode([("x", "y" * 4000)] * 20)
        frame = hyperframe.frame.HeadersFrame(1, bytes(block), flags=["END_HEADERS"])
        assert breaks(established().server, frame.serialize(), ENHANCE_YOUR_CALM)

    def test_endless_continuation(self) -> None:
        """A header block that never ends is cut (CVE-2024-27983 and its kin)."""
        link = established()
        link.server.receive(hyperframe.frame.HeadersFrame(1, request_headers()).serialize())
        part = hyperframe.frame.ContinuationFrame(1, b"").serialize()
        with pytest.raises(RemoteProtocolError):
            link.server.receive(part * int(CAPACITY))

"""What only a tunnel's stream can do to a channel: credit, windows, orders."""

import pytest
import trio
import trio.testing

from node_proxy.dataplane.backlog import Backlog
from node_proxy.dataplane.http.channel import ChannelBroken
from node_proxy.dataplane.http.stream_channel import StreamChannel
from node_proxy.dataplane.relay import READ_SIZE
from node_proxy.tunnel.frames import FRAME_HEADER
from node_proxy.tunnel.handlers import TUNNEL_CLOSED
from node_proxy.tunnel.http2 import CANCEL, NO_ERROR
from tests.fakes.relay_tunnel import LARGEST_PAYLOAD, RelayTunnel

STREAM = 5


class Bench:
    """A channel over a stream of a tunnel in the test's hand."""

    def __init__(self, backlog_limit: int = 1 << 20) -> None:
        self.tunnel = RelayTunnel()
        self.backlog = Backlog(backlog_limit)
        self.channel = StreamChannel(
            self.tunnel.as_tunnel(),
            STREAM,
            backlog=self.backlog,
            buffer=bytearray(FRAME_HEADER + READ_SIZE),
        )

    def came(self, data: bytes) -> None:
        """Give payload as the tunnel does, in a buffer that is used again."""
        buffer = bytearray(data)
        self.channel.on_data(memoryview(buffer))
        buffer[:] = bytes(len(buffer))


@pytest.fixture
def bench() -> Bench:
    """Give a channel."""
    return Bench()


class TestReceiving:
    def test_credit_when_received(self, bench: Bench) -> None:
        """The peer gets credit for what was received, not for what came."""
        bench.came(b"12345")
        bench.came(b"678")
        assert bench.tunnel.credit == 0
        assert bench.channel.receive_nowait() == b"12345"
        assert bench.tunnel.credit == 5
        assert bench.channel.receive_nowait() == b"678"
        assert bench.tunnel.credit == 8

    async def test_prompt(self, bench: Bench) -> None:
        """Bytes that somebody waited for were taken promptly: the window may grow."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.channel.receive)
            await trio.testing.wait_all_tasks_blocked()
            bench.came(b"waited for")
        assert bench.tunnel.credited == [(10, True)]

    def test_not_prompt(self, bench: Bench) -> None:
        """Bytes that lay about were not."""
        bench.came(b"lay about")
        bench.channel.receive_nowait()
        assert bench.tunnel.credited == [(9, False)]

    def test_backlog(self, bench: Bench) -> None:
        """What was not received counts in the worker's backlog."""
        bench.came(b"12345")
        bench.came(b"678")
        assert bench.backlog.total == 8
        bench.channel.receive_nowait()
        assert bench.backlog.total == 3
        bench.channel.close()
        assert bench.backlog.total == 0

    def test_cut_for_the_backlog(self) -> None:
        """The one that holds most when the backlog is full is reset."""
        bench = Bench(backlog_limit=10)
        bench.came(bytes(11))
        assert bench.tunnel.resets == [(STREAM, CANCEL)]
        assert (bench.backlog.total, bench.backlog.cuts) == (0, 1)
        with pytest.raises(ChannelBroken, match="backlog"):
            bench.channel.receive_nowait()

    def test_before_acceptance(self, bench: Bench) -> None:
        """What comes before the stream is accepted is kept, and its end."""
        bench.came(b"early")
        bench.channel.on_ended()
        bench.channel.on_accepted()
        assert [bench.channel.receive_nowait() for _ in range(2)] == [b"early", b""]


class TestSending:
    def test_frames(self, bench: Bench) -> None:
        """What is larger than a frame goes in several."""
        data = bytes(range(256)) * 1024
        assert bench.channel.send_nowait(data)
        assert bench.tunnel.sent == data

    def test_window(self, bench: Bench) -> None:
        """What exceeds the window waits for it, and goes on by itself."""
        bench.tunnel.window = 10
        assert bench.channel.send_nowait(b"0123456789abc")
        bench.channel.send_nowait(b"def")
        assert bench.tunnel.sent == b"0123456789"
        bench.tunnel.open_window(3)
        bench.tunnel.open_window(3)
        assert bench.tunnel.sent == b"0123456789abcdef"

    def test_end_behind_what_waits(self, bench: Bench) -> None:
        """END_STREAM goes behind the last byte, once."""
        bench.tunnel.window = 0
        bench.channel.send_nowait(b"all")
        bench.channel.end()
        bench.channel.end()
        assert bench.tunnel.ended == []
        bench.tunnel.open_window(3)
        assert bench.tunnel.ended == [STREAM]

    def test_tunnel_that_ends_within(self, bench: Bench) -> None:
        """A tunnel that ends while it takes bytes leaves nothing that is sent again."""
        tunnel = bench.tunnel
        tunnel.window = 2 * LARGEST_PAYLOAD
        send = tunnel.send_payload

        def end_within(stream_id: int, buffer: bytearray, length: int) -> None:
            send(stream_id, buffer, length)
            tunnel.window = 0
            bench.channel.on_reset(TUNNEL_CLOSED)

        tunnel.send_payload = end_within  # type: ignore[method-assign]
        bench.channel.send_nowait(bytes(4 * LARGEST_PAYLOAD))
        assert bench.channel.broken
        assert tunnel.waiting == {}
        with pytest.raises(ChannelBroken):
            bench.channel.send_nowait(b"x")

    def test_tunnel_that_ends_within_a_flush(self, bench: Bench) -> None:
        """Nor one that ends while it takes what was queued."""
        tunnel = bench.tunnel
        tunnel.window = 0
        bench.channel.send_nowait(b"queued")
        tunnel.send_payload = lambda *_: bench.channel.on_reset(TUNNEL_CLOSED)  # type: ignore[method-assign]
        tunnel.open_window(3)
        assert bench.channel.broken
        assert bench.channel._unsent == 0


class TestEnd:
    @pytest.mark.parametrize("code", [CANCEL, TUNNEL_CLOSED, NO_ERROR])
    def test_reset(self, bench: Bench, code: int) -> None:
        """A reset breaks the channel behind what came before it."""
        bench.came(b"before")
        bench.channel.on_reset(code)
        assert bench.channel.broken
        assert bench.channel.receive_nowait() == b"before"
        with pytest.raises(ChannelBroken):
            bench.channel.receive_nowait()

    def test_peer_is_done(self, bench: Bench) -> None:
        """NO_ERROR behind the peer's end breaks nothing that it said."""
        bench.came(b"all")
        bench.channel.on_ended()
        bench.channel.on_reset(NO_ERROR)
        assert [bench.channel.receive_nowait() for _ in range(2)] == [b"all", b""]
        with pytest.raises(ChannelBroken):
            bench.channel.send_nowait(b"x")

    def test_refused(self, bench: Bench) -> None:
        """A stream that was refused is broken."""
        bench.channel.on_refused(503, "dial_failed")
        assert bench.channel.broken

    def test_abort(self, bench: Bench) -> None:
        """An abort resets the stream, once, and gives up what waits."""
        bench.tunnel.window = 0
        bench.channel.send_nowait(b"x")
        bench.channel.abort()
        bench.channel.abort()
        bench.channel.close()
        assert bench.tunnel.resets == [(STREAM, CANCEL)]
        assert bench.tunnel.ended == []

    def test_cut(self, bench: Bench) -> None:
        """Who cuts the stream says why."""
        bench.channel.cut("policy: web is denied now")
        assert bench.tunnel.resets == [(STREAM, CANCEL)]
        with pytest.raises(ChannelBroken, match="denied now"):
            bench.channel.receive_nowait()

    def test_close_when_both_have_ended(self, bench: Bench) -> None:
        """To close what has ended both ways lets the tunnel forget it."""
        bench.channel.on_ended()
        bench.channel.close()
        bench.channel.close()
        assert (bench.tunnel.ended, bench.tunnel.resets) == ([STREAM], [])
        assert bench.tunnel.forgotten == [STREAM]

    def test_close_first(self, bench: Bench) -> None:
        """Who closes first ends in order, and does not wait for the other side's end."""
        bench.channel.close()
        assert bench.tunnel.ended == [STREAM]
        assert bench.tunnel.resets == [(STREAM, NO_ERROR)]

    def test_close_behind_what_waits(self, bench: Bench) -> None:
        """A close waits for the window, and gives credit to a peer that must read meanwhile."""
        bench.tunnel.window = 0
        bench.channel.send_nowait(b"last")
        bench.channel.close()
        bench.came(b"not listened to")
        assert bench.tunnel.credit == 15
        assert (bench.tunnel.ended, bench.tunnel.resets) == ([], [])
        bench.tunnel.open_window(4)
        assert bench.tunnel.sent == b"last"
        assert (bench.tunnel.ended, bench.tunnel.resets) == ([STREAM], [(STREAM, NO_ERROR)])

    def test_abort_behind_a_close(self, bench: Bench) -> None:
        """What a close left to be sent can still be given up."""
        bench.tunnel.window = 0
        bench.channel.send_nowait(b"last")
        bench.channel.close()
        bench.channel.abort()
        assert bench.tunnel.resets == [(STREAM, CANCEL)]

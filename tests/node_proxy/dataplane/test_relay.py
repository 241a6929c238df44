import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from node_proxy.dataplane.backlog import Backlog
from node_proxy.dataplane.relay import READ_SIZE, StreamRelay
from node_proxy.dataplane.socket_side import SocketSide
from node_proxy.dataplane.telemetry import Traffic
from node_proxy.tunnel.frames import FRAME_HEADER
from node_proxy.tunnel.handlers import TUNNEL_CLOSED
from node_proxy.tunnel.http2 import CANCEL, CONNECT_ERROR, NO_ERROR
from tests.fakes.poller import EpollPoller
from tests.fakes.relay_tunnel import LARGEST_PAYLOAD, RelayTunnel
from tests.fakes.tcp import Reader, reset, send_all, send_until_blocked, tcp_pair

STREAM = 5
# Many times what two loopback sockets hold between them.
LARGE = 32 << 20


class Bench:
    """A relay between a real TCP connection to a workload and a tunnel in the test's hand."""

    def __init__(self, poller: EpollPoller, stack: ExitStack) -> None:
        self.poller = poller
        self.tunnel = RelayTunnel()
        self.backlog = Backlog()
        self.near, self.workload = tcp_pair()
        stack.callback(self.workload.close)
        stack.callback(self.near.close)
        self.reader = Reader(self.workload)
        self.outcomes: list[str] = []
        self.relay = StreamRelay(
            SocketSide(self.near, poller),
            self.tunnel.as_tunnel(),
            STREAM,
            buffer=bytearray(FRAME_HEADER + READ_SIZE),
            backlog=self.backlog,
            on_closed=lambda _, outcome: self.outcomes.append(outcome),
        )
        self.relay.start()

    def settle(self) -> None:
        """Let everything happen that can."""
        self.poller.settle()

    def to_workload(self, data: bytes) -> None:
        """Give payload as the tunnel does."""
        self.relay.on_data(memoryview(data))

    def fill_workload(self) -> int:
        """Give payload until the workload's socket blocks; gives how many bytes that took."""
        given = 0
        while self.tunnel.credit == given:
            self.to_workload(bytes(LARGEST_PAYLOAD))
            given += LARGEST_PAYLOAD
        return given


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give a relay that has begun."""
    with EpollPoller() as poller, ExitStack() as stack:
        yield Bench(poller, stack)


class TestBytes:
    def test_from_the_workload(self, bench: Bench) -> None:
        """What the workload writes goes out on the stream."""
        bench.workload.send(b"answer")
        bench.settle()
        assert bench.tunnel.sent == b"answer"

    def test_to_the_workload(self, bench: Bench) -> None:
        """What comes on the stream is written to the workload, and credited as taken at once."""
        bench.to_workload(b"question")
        assert bench.reader.read() == b"question"
        assert bench.tunnel.credited == [(8, True)]

    def test_much_both_ways(self, bench: Bench) -> None:
        """Megabytes in both directions at once arrive whole and in order."""
        upstream, downstream = bytes(range(256)) * 4000, bytes(range(255, -1, -1)) * 4000
        for position in range(0, len(downstream), LARGEST_PAYLOAD):
            bench.to_workload(downstream[position : position + LARGEST_PAYLOAD])
            send_all(bench.workload, upstream[position : position + LARGEST_PAYLOAD], bench.poller)
        bench.poller.until(lambda: len(bench.reader.read()) == len(downstream))
        bench.poller.until(lambda: len(bench.tunnel.sent) == len(upstream))
        assert bench.reader.data == downstream
        assert bench.tunnel.sent == upstream

    def test_traffic_is_counted(self, bench: Bench) -> None:
        """Bytes are counted by direction, as the workload's socket sees it."""
        bench.workload.send(b"12345")
        bench.to_workload(b"123")
        bench.settle()
        assert bench.relay.traffic == Traffic(sent=5, received=3)


class TestHalfClose:
    def test_workload_ends_first(self, bench: Bench) -> None:
        """The workload's FIN becomes END_STREAM, and the other direction goes on."""
        bench.workload.send(b"all")
        bench.workload.shutdown(socket.SHUT_WR)
        bench.settle()
        assert bench.tunnel.sent == b"all"
        assert bench.tunnel.ended == [STREAM]
        bench.to_workload(b"more")
        assert bench.reader.read() == b"more"
        assert bench.outcomes == []

    def test_far_side_ends_first(self, bench: Bench) -> None:
        """END_STREAM becomes a FIN behind the payload, and the other direction goes on."""
        bench.to_workload(b"all")
        bench.relay.on_ended()
        assert bench.reader.ended() == "end"
        assert bench.reader.data == b"all"
        bench.workload.send(b"more")
        bench.settle()
        assert bench.tunnel.sent == b"more"
        assert bench.outcomes == []

    @pytest.mark.parametrize("workload_first", [True, False])
    def test_done_when_both_have_ended(self, bench: Bench, workload_first: bool) -> None:
        """After the second end, whichever it is, the relay is done and its stream forgotten."""
        if workload_first:
            bench.workload.shutdown(socket.SHUT_WR)
            bench.settle()
            bench.relay.on_ended()
        else:
            bench.relay.on_ended()
            bench.workload.shutdown(socket.SHUT_WR)
            bench.settle()
        assert bench.outcomes == ["done"]
        assert bench.tunnel.forgotten == [STREAM]
        assert bench.tunnel.resets == []
        assert bench.reader.ended() == "end"
        assert bench.poller.watched == set()

    def test_end_waits_for_bytes_that_wait(self, bench: Bench) -> None:
        """A FIN never overtakes payload that the workload has not taken yet."""
        given = bench.fill_workload()
        bench.relay.on_ended()
        bench.workload.shutdown(socket.SHUT_WR)
        bench.settle()
        assert bench.outcomes == []
        bench.poller.until(lambda: bool(bench.reader.ended()))
        assert (bench.reader.ending, len(bench.reader.data)) == ("end", given)
        assert bench.outcomes == ["done"]

    def test_idle_half_closed_relay_is_quiet(self, bench: Bench) -> None:
        """A half-closed connection that says nothing costs nothing: no busy loop."""
        bench.workload.shutdown(socket.SHUT_WR)
        bench.settle()
        bench.settle()
        assert bench.outcomes == []


class TestWorkloadThatDoesNotRead:
    def test_gets_no_more_credit(self, bench: Bench) -> None:
        """Credit stops with what the workload's socket took; the rest waits."""
        given = bench.fill_workload()
        bench.settle()
        assert bench.tunnel.credit < given
        before = bench.tunnel.credit
        bench.to_workload(b"more")
        bench.settle()
        assert bench.tunnel.credit == before

    def test_is_not_prompt(self, bench: Bench) -> None:
        """What it takes of a chunk that did not fit is no sign of a fast reader."""
        bench.fill_workload()
        taken, prompt = bench.tunnel.credited[-1]
        assert taken < LARGEST_PAYLOAD
        assert not prompt

    def test_gets_everything_when_it_reads(self, bench: Bench) -> None:
        """When it reads again all comes in order, is credited, and not as taken at once."""
        given = bench.fill_workload()
        bench.to_workload(b"last")
        bench.poller.until(lambda: len(bench.reader.read()) == given + 4)
        assert bench.reader.data.endswith(b"last")
        bench.settle()
        assert bench.tunnel.credit == given + 4
        assert not bench.tunnel.credited[-1][1]

    def test_room_is_watched_for_only_while_bytes_wait(self, bench: Bench) -> None:
        """An empty buffer is not watched for room, which would be reported for ever."""
        given = bench.fill_workload()
        bench.poller.until(lambda: len(bench.reader.read()) == given)
        bench.settle()

    def test_may_still_send(self, bench: Bench) -> None:
        """A workload that does not read is still read from."""
        bench.fill_workload()
        bench.workload.send(b"still here")
        bench.settle()
        assert bench.tunnel.sent == b"still here"


class TestTunnelThatDoesNotSend:
    def test_stops_the_reading(self, bench: Bench) -> None:
        """With a shut window no more is read than went out: the workload blocks."""
        bench.tunnel.window = 100_000
        sent = send_until_blocked(bench.workload, bench.poller.turn)
        assert len(bench.tunnel.sent) == 100_000
        assert sent < LARGE
        assert bench.relay.traffic.sent == 100_000

    def test_paused_relay_is_quiet(self, bench: Bench) -> None:
        """Bytes that may not be read are not reported again and again."""
        bench.tunnel.window = 0
        bench.workload.send(b"waiting")
        bench.settle()
        assert STREAM in bench.tunnel.waiting

    def test_goes_on_with_the_window(self, bench: Bench) -> None:
        """When the window opens, reading goes on where it stopped."""
        bench.tunnel.window = 3
        bench.workload.send(b"abcdef")
        bench.settle()
        assert bench.tunnel.sent == b"abc"
        bench.tunnel.open_window(2)
        bench.settle()
        assert bench.tunnel.sent == b"abcde"
        bench.tunnel.open_window(10)
        bench.settle()
        assert bench.tunnel.sent == b"abcdef"

    def test_workload_that_closes_meanwhile_loses_nothing(self, bench: Bench) -> None:
        """A workload that sent everything and closed while the relay was paused has it all delivered."""
        bench.tunnel.window = 1000
        bench.workload.send(bytes(50_000))
        bench.settle()
        bench.workload.close()
        bench.settle()
        assert bench.outcomes == []
        bench.tunnel.open_window(10**6)
        bench.settle()
        assert len(bench.tunnel.sent) == 50_000
        assert bench.tunnel.ended == [STREAM]

    def test_hang_up_while_paused_loses_nothing(self, bench: Bench) -> None:
        """The same when we have ended too, so that epoll reports EPOLLHUP whatever is watched for."""
        bench.tunnel.window = 1000
        bench.workload.send(bytes(50_000))
        bench.settle()
        bench.relay.on_ended()
        bench.workload.close()
        bench.settle()
        assert bench.outcomes == []
        bench.tunnel.open_window(10**6)
        bench.settle()
        assert len(bench.tunnel.sent) == 50_000
        assert (bench.tunnel.ended, bench.outcomes) == ([STREAM], ["done"])

    def test_may_still_receive(self, bench: Bench) -> None:
        """A paused relay still writes to its workload, even what does not fit at once."""
        bench.tunnel.window = 0
        bench.workload.send(b"waiting")
        bench.settle()
        given = bench.fill_workload()
        bench.poller.until(lambda: len(bench.reader.read()) == given)
        bench.settle()
        assert bench.tunnel.credit == given
        bench.tunnel.open_window(100)
        bench.settle()
        assert bench.tunnel.sent == b"waiting"


class TestReset:
    def test_by_the_workload(self, bench: Bench) -> None:
        """A workload's RST becomes RST_STREAM with CONNECT_ERROR (RFC 9113 section 8.5)."""
        reset(bench.workload)
        bench.settle()
        assert bench.tunnel.resets == [(STREAM, CONNECT_ERROR)]
        assert len(bench.outcomes) == 1
        assert bench.poller.watched == set()

    def test_by_the_workload_after_its_end(self, bench: Bench) -> None:
        """The same when the workload had ended its own direction already."""
        bench.workload.shutdown(socket.SHUT_WR)
        bench.settle()
        bench.to_workload(b"nobody reads this")
        reset(bench.workload)
        bench.settle()
        assert bench.tunnel.resets == [(STREAM, CONNECT_ERROR)]
        assert len(bench.outcomes) == 1

    def test_found_in_writing(self, bench: Bench) -> None:
        """A broken connection that is found by a write resets the stream once."""
        reset(bench.workload)
        bench.to_workload(b"one")
        bench.to_workload(b"two")
        bench.settle()
        assert bench.tunnel.resets == [(STREAM, CONNECT_ERROR)]
        assert len(bench.outcomes) == 1

    @pytest.mark.parametrize("code", [CANCEL, NO_ERROR, TUNNEL_CLOSED])
    def test_by_the_far_side(self, bench: Bench, code: int) -> None:
        """A reset of the stream, or the end of its tunnel, is an RST to the workload: no clean end."""
        bench.relay.on_reset(code)
        assert bench.reader.ended() == "reset"
        assert len(bench.outcomes) == 1
        assert bench.tunnel.resets == []

    def test_drops_what_waits(self, bench: Bench) -> None:
        """After a reset nothing more is delivered."""
        bench.fill_workload()
        bench.relay.on_reset(CANCEL)
        assert bench.reader.ended() == "reset"
        assert bench.poller.watched == set()

    def test_without_error_after_the_end(self, bench: Bench) -> None:
        """NO_ERROR behind END_STREAM closes as Envoy does: what was sent is still delivered."""
        given = bench.fill_workload()
        bench.relay.on_ended()
        bench.relay.on_reset(NO_ERROR)
        bench.poller.until(lambda: bool(bench.reader.ended()))
        assert (bench.reader.ending, len(bench.reader.data)) == ("end", given)
        assert bench.outcomes == ["done"]

    @pytest.mark.parametrize("code", [CANCEL, CONNECT_ERROR, TUNNEL_CLOSED])
    def test_with_error_after_the_end(self, bench: Bench, code: int) -> None:
        """Any other reset behind END_STREAM is a reset."""
        bench.relay.on_ended()
        bench.relay.on_reset(code)
        assert bench.outcomes != ["done"]
        bench.settle()
        assert bench.poller.watched == set()

    def test_without_error_while_paused(self, bench: Bench) -> None:
        """The same for a relay that waits for a window: nobody wants what it would send."""
        bench.tunnel.window = 0
        bench.workload.send(b"unwanted")
        bench.settle()
        bench.relay.on_ended()
        bench.relay.on_reset(NO_ERROR)
        bench.settle()
        assert bench.outcomes == ["done"]
        assert bench.poller.watched == set()

    def test_cut(self, bench: Bench) -> None:
        """A cut is a reset each way, and its reason the outcome."""
        bench.relay.cut("policy: default/no-web")
        assert bench.tunnel.resets == [(STREAM, CANCEL)]
        assert bench.reader.ended() == "reset"
        assert bench.outcomes == ["policy: default/no-web"]

    def test_bug(self, bench: Bench) -> None:
        """A bug ends the connection both ways and is named."""
        bench.relay.on_crash(ZeroDivisionError("oops"))
        assert bench.tunnel.resets == [(STREAM, CANCEL)]
        assert "oops" in bench.outcomes[0]

    def test_told_once(self, bench: Bench) -> None:
        """Whatever comes after the end, `on_closed` was said once."""
        bench.relay.cut("first")
        bench.relay.cut("second")
        bench.relay.on_reset(CANCEL)
        bench.relay.on_refused(503, "late")
        bench.relay.on_writable()
        bench.to_workload(b"late")
        bench.relay.on_ended()
        bench.relay.on_crash(ZeroDivisionError())
        bench.settle()
        assert bench.outcomes == ["first"]


class TestBacklog:
    def test_what_the_workload_does_not_take(self, bench: Bench) -> None:
        """Bytes that wait for the workload count until it has taken them."""
        given = bench.fill_workload()
        assert bench.backlog.total == given - bench.tunnel.credit > 0
        while bench.backlog.total:
            bench.reader.read()
            bench.settle()
        assert bench.tunnel.credit == given

    def test_end_lets_go(self, bench: Bench) -> None:
        """A relay that is cut holds nothing."""
        bench.fill_workload()
        bench.relay.cut("test")
        assert bench.backlog.total == 0

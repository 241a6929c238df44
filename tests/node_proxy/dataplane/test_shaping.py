import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
import trio

from node_proxy.buckets import Buckets
from node_proxy.dataplane.backlog import Backlog
from node_proxy.dataplane.local_relay import LocalRelay
from node_proxy.dataplane.pacer import Pacer
from node_proxy.dataplane.reactor import Reactor
from node_proxy.dataplane.relay import READ_SIZE, StreamRelay
from node_proxy.dataplane.shaping import Lane, Meter, PacedSide, Shaper, open_side
from node_proxy.dataplane.socket_side import SocketSide
from node_proxy.tunnel.frames import FRAME_HEADER
from registry.rules.limits.bucket import Bucket
from registry.rules.limits.compiled import EVENNESS
from tests.fakes.poller import EpollPoller
from tests.fakes.relay_tunnel import LARGEST_PAYLOAD, RelayTunnel
from tests.fakes.tcp import Reader, reset, tcp_pair

STREAM = 5
RATE = 1_000_000
BURST = int(RATE * EVENNESS)
QUICK = Bucket.of(RATE, per=1.0, burst=BURST)


@dataclass
class Tempo:
    """Shapers under a clock that a test moves; waiters are called when it does."""

    now: float = 1000.0
    buckets: Buckets = field(default_factory=lambda: Buckets(None))
    crashes: int = 0
    pacer: Pacer = field(init=False)

    def __post_init__(self) -> None:
        self.pacer = Pacer(lambda: self.now, self._crashed)

    def _crashed(self) -> None:
        self.crashes += 1

    def lane(self, name: str) -> Lane:
        """Give a lane of `RATE`."""
        meter = Meter(QUICK, self.buckets.key(name), named=True)
        return Lane(self.buckets, [meter], lambda: self.now, self.pacer)

    def pass_time(self, seconds: float = 0.01) -> None:
        """Let time pass, and whose turn has come go on."""
        self.now += seconds
        self.pacer._release()


class Bench:
    """A paced relay between a real workload's socket and a tunnel in the test's hand."""

    def __init__(self, poller: EpollPoller, stack: ExitStack, *, upload: bool, download: bool) -> None:
        self.poller = poller
        self.tempo = Tempo()
        self.tunnel = RelayTunnel()
        self.near, self.workload = tcp_pair()
        stack.callback(self.workload.close)
        stack.callback(self.near.close)
        self.reader = Reader(self.workload)
        self.outcomes: list[str] = []
        shaper = Shaper(
            upload=self.tempo.lane("up") if upload else None,
            download=self.tempo.lane("down") if download else None,
        )
        self.relay = StreamRelay(
            open_side(self.near, poller, shaper),
            self.tunnel.as_tunnel(),
            STREAM,
            buffer=bytearray(FRAME_HEADER + READ_SIZE),
            backlog=Backlog(),
            on_closed=lambda _, outcome: self.outcomes.append(outcome),
        )
        self.relay.start()

    def run_until(self, amount: int, have: Iterator[int]) -> int:
        """Let time pass in steps of 10 ms until there are so many bytes; gives how many steps."""
        steps = 0
        while next(have) < amount:
            self.tempo.pass_time()
            self.poller.settle()
            steps += 1
            assert steps < 1000
        return steps


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Give what closes everything."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def poller(stack: ExitStack) -> EpollPoller:
    """Give a real epoll that a test turns."""
    return stack.enter_context(EpollPoller())


@pytest.fixture
def bench(poller: EpollPoller, stack: ExitStack) -> Bench:
    """Give a relay that is paced in both directions."""
    return Bench(poller, stack, upload=True, download=True)


def noise(amount: int) -> bytes:
    """Give bytes in which a lost or a doubled one shows."""
    return random.Random(amount).randbytes(amount)  # noqa: S311 - the same bytes in every run


def test_nothing_to_pace_is_nothing_paced(poller: EpollPoller, stack: ExitStack) -> None:
    """Without limits of bandwidth a socket is the plain one, at no cost."""
    near, far = tcp_pair()
    stack.callback(far.close)
    side = open_side(near, poller, None)
    assert type(side) is SocketSide
    side.close()


def test_download(bench: Bench) -> None:
    """What the workload sends is read at the rate, whole and in order; until then it waits in its socket."""
    data = noise(5 * BURST)
    bench.workload.sendall(data)
    bench.poller.settle()
    assert len(bench.tunnel.sent) == BURST
    steps = bench.run_until(len(data), (len(bench.tunnel.sent) for _ in range(1000)))
    assert steps == pytest.approx(4 * EVENNESS / 0.01, abs=2)
    assert bench.tunnel.sent == data


def test_upload(bench: Bench) -> None:
    """What comes through the tunnel is written at the rate; the peer gets credit for no more than that."""
    data = noise(5 * BURST)
    for position in range(0, len(data), LARGEST_PAYLOAD):
        bench.relay.on_data(memoryview(data[position : position + LARGEST_PAYLOAD]))
    bench.poller.settle()
    assert bench.tunnel.credit == BURST
    assert len(bench.reader.read()) == BURST
    steps = bench.run_until(len(data), (len(bench.reader.read()) for _ in range(1000)))
    assert steps == pytest.approx(4 * EVENNESS / 0.01, abs=2)
    assert bench.reader.data == data
    assert bench.tunnel.credit == len(data)


def test_the_other_direction_is_free(poller: EpollPoller, stack: ExitStack) -> None:
    """A limit of the upload leaves the download alone."""
    bench = Bench(poller, stack, upload=True, download=False)
    data = noise(5 * BURST)
    bench.workload.sendall(data)
    poller.settle()
    assert bench.tunnel.sent == data


def test_what_is_sent_before_the_end_is_read(bench: Bench) -> None:
    """A workload that has sent everything and closed is read to the end, without a busy loop meanwhile."""
    data = noise(3 * BURST)
    bench.workload.sendall(data)
    bench.relay.on_ended()
    bench.workload.close()
    bench.poller.settle()
    bench.run_until(len(data), (len(bench.tunnel.sent) for _ in range(1000)))
    # The end takes a turn of its own.
    bench.tempo.pass_time()
    bench.poller.settle()
    assert bench.tunnel.sent == data
    assert bench.tunnel.ended == [STREAM]
    assert bench.outcomes == ["done"]
    assert bench.poller.watched == set()


def test_the_far_end_is_passed_on_last(bench: Bench) -> None:
    """The end of the upload reaches the workload when all of it has."""
    data = noise(2 * BURST)
    for position in range(0, len(data), LARGEST_PAYLOAD):
        bench.relay.on_data(memoryview(data[position : position + LARGEST_PAYLOAD]))
    bench.relay.on_ended()
    bench.poller.settle()
    bench.run_until(len(data), (len(bench.reader.read()) for _ in range(1000)))
    bench.workload.shutdown(socket.SHUT_WR)
    bench.poller.until(lambda: bench.outcomes == ["done"])
    assert bench.reader.read() == data


def test_reset_while_waiting(bench: Bench) -> None:
    """A workload that breaks while its turn has not come is noticed by then, without a busy loop."""
    bench.workload.sendall(noise(2 * BURST))
    bench.poller.settle()
    reset(bench.workload)
    bench.poller.settle()
    for _ in range(10):
        bench.tempo.pass_time()
        bench.poller.settle()
    assert len(bench.outcomes) == 1
    assert "broke" in bench.outcomes[0]
    assert bench.poller.watched == set()


def test_a_closed_side_is_called_no_more(bench: Bench) -> None:
    """A relay that is cut while it waits lets go of its place in the queue."""
    bench.workload.sendall(noise(2 * BURST))
    bench.relay.on_data(memoryview(bytes(LARGEST_PAYLOAD)))
    bench.poller.settle()
    bench.relay.cut("test")
    bench.tempo.pass_time(1.0)
    assert bench.poller.watched == set()
    assert bench.tempo.crashes == 0
    assert bench.tempo.pacer._queues == {}


def test_a_blocked_tunnel_and_a_turn(bench: Bench) -> None:
    """A turn that comes while the tunnel takes nothing reads nothing; both must let it."""
    bench.tunnel.window = BURST + 10
    bench.workload.sendall(noise(2 * BURST))
    bench.poller.settle()
    bench.tempo.pass_time(0.1)
    bench.poller.settle()
    bench.tempo.pass_time(0.1)
    bench.poller.settle()
    assert len(bench.tunnel.sent) == BURST + 10
    bench.tunnel.open_window(1 << 20)
    bench.run_until(2 * BURST, (len(bench.tunnel.sent) for _ in range(1000)))


def test_a_slow_workload_takes_nothing_of_the_rate(bench: Bench) -> None:
    """What a workload's full socket does not take is left for the others under the same limit."""
    bench.workload.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    bench.tempo.now += 60
    for _ in range(400):
        bench.relay.on_data(memoryview(bytes(LARGEST_PAYLOAD)))
        bench.tempo.pass_time(0.1)
        bench.poller.settle()
    bench.tempo.now += 60
    assert bench.tempo.lane("up").take(1 << 20) == BURST


def test_a_bug_cuts_the_relay(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug when the turn comes costs the connection and nothing else."""
    bench.workload.sendall(noise(2 * BURST))
    bench.poller.settle()

    def fail(_side: PacedSide) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(PacedSide, "watch_again", fail)
    bench.tempo.pass_time(1.0)
    assert bench.tempo.crashes == 1
    assert bench.outcomes == ["internal error: ValueError('a bug')"]


def test_local_relay(poller: EpollPoller, stack: ExitStack) -> None:
    """Between two sockets of a host both directions are paced as well, whole and in order."""
    tempo = Tempo()
    near_caller, caller = tcp_pair()
    near_workload, workload = tcp_pair()
    for sock in (near_caller, caller, near_workload, workload):
        stack.callback(sock.close)
    outcomes: list[str] = []
    relay = LocalRelay(
        near_caller,
        near_workload,
        poller=poller,
        buffer=bytearray(65_536),
        on_closed=lambda _, outcome: outcomes.append(outcome),
        shaper=Shaper(upload=tempo.lane("up"), download=tempo.lane("down")),
    )
    relay.start()
    there, back = noise(4 * BURST), noise(3 * BURST)
    caller.sendall(there)
    workload.sendall(back)
    caller.shutdown(socket.SHUT_WR)
    at_caller, at_workload = Reader(caller), Reader(workload)
    poller.settle()
    assert (len(at_workload.read()), len(at_caller.read())) == (BURST, BURST)
    for _ in range(100):
        tempo.pass_time()
        poller.settle()
    workload.shutdown(socket.SHUT_WR)
    poller.settle()
    assert at_workload.read() == there
    assert at_caller.read() == back
    assert outcomes == ["done"]


async def test_in_real_time() -> None:
    """Under the reactor and real clocks a flow keeps its rate, and never runs ahead of it."""
    rate = 8_000_000
    reactor, buckets = Reactor(), Buckets(None)
    pacer = Pacer(time.monotonic, lambda: None)
    bucket = Bucket.of(rate, per=1.0, burst=rate * EVENNESS)
    lane = Lane(buckets, [Meter(bucket, buckets.key("down"), named=True)], time.monotonic, pacer)
    near_caller, caller = tcp_pair()
    near_workload, workload = tcp_pair()
    received: list[tuple[float, int]] = []
    with caller, workload, near_caller, near_workload:
        relay = LocalRelay(
            near_caller,
            near_workload,
            poller=reactor,
            buffer=bytearray(65_536),
            on_closed=lambda _relay, _outcome: None,
            shaper=Shaper(upload=None, download=lane),
        )

        async def feed() -> None:
            data = bytes(1 << 20)
            while True:
                await trio.lowlevel.wait_writable(workload)
                workload.send(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.run)
            nursery.start_soon(pacer.run)
            nursery.start_soon(feed)
            relay.start()
            began, total = time.monotonic(), 0
            while time.monotonic() < began + 1.0:
                await trio.lowlevel.wait_readable(caller)
                total += len(caller.recv(1 << 20))
                received.append((time.monotonic() - began, total))
            nursery.cancel_scope.cancel()
        relay.cut("end")
    for moment, so_far in received:
        assert so_far <= rate * (moment + EVENNESS) + 1
    # A machine that is busy with other things is late; that is all.
    assert total >= rate * 0.5

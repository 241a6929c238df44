"""What only a socket can do to a channel; its poller is turned by hand."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from node_proxy.dataplane.http.channel import ChannelBroken
from node_proxy.dataplane.http.socket_channel import READ_AHEAD, SocketChannel
from tests.fakes.poller import EpollPoller
from tests.fakes.tcp import Reader, reset, send_until_blocked, shrink, tcp_pair

LARGE = 16 << 20


class Bench:
    """A channel over a real connection; `workload` is the far end."""

    def __init__(self, poller: EpollPoller, stack: ExitStack) -> None:
        self.poller = poller
        self.near, self.workload = tcp_pair()
        stack.callback(self.workload.close)
        stack.callback(self.near.close)
        self.reader = Reader(self.workload)
        self.channel = SocketChannel(self.near, poller)

    def read_all(self) -> bytes:
        """Receive all that comes while the poller turns."""
        received = bytearray()
        while True:
            self.poller.settle()
            data = self.channel.receive_nowait()
            if not data:
                return bytes(received)
            received += data


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give a channel."""
    with EpollPoller() as poller, ExitStack() as stack:
        yield Bench(poller, stack)


def test_reads_no_further_ahead(bench: Bench) -> None:
    """Of who sends without end, no more than the bound is kept here; the rest waits in its socket."""
    sent = send_until_blocked(bench.workload, bench.poller.turn)
    assert bench.channel._inbox.size < 2 * READ_AHEAD
    assert len(bench.read_all()) == sent


def test_no_busy_loop_when_full(bench: Bench) -> None:
    """A channel whose inbox is full does not let its poller spin, nor when both sides have ended besides."""
    send_until_blocked(bench.workload, bench.poller.turn)
    bench.channel.end()
    bench.workload.close()
    bench.poller.settle()
    assert bench.channel._inbox.size


def test_no_busy_loop_at_the_end(bench: Bench) -> None:
    """Nor when both sides have ended and nothing is left."""
    bench.channel.end()
    bench.workload.close()
    bench.poller.settle()
    assert bench.channel.receive_nowait() == b""
    bench.poller.settle()
    assert not bench.channel.broken


def test_last_words_before_a_reset(bench: Bench) -> None:
    """An answer is still received when its sender resets behind it: it closed with our body unread."""
    bench.channel.send_nowait(b"a body")
    bench.workload.send(b"the answer")
    bench.workload.close()
    bench.poller.settle()
    assert bench.channel.broken
    assert bench.channel.receive_nowait() == b"the answer"
    with pytest.raises(ChannelBroken):
        bench.channel.receive_nowait()


def test_last_words_before_a_failed_send(bench: Bench) -> None:
    """It is as well when only our next send finds out."""
    bench.channel.send_nowait(b"a body")
    bench.workload.send(b"the answer")
    bench.workload.close()
    with pytest.raises(ChannelBroken):
        bench.channel.send_nowait(b"more")
    assert bench.channel.receive_nowait() == b"the answer"


def test_reset_while_nobody_receives(bench: Bench) -> None:
    """A reset is noticed although nobody asks for bytes."""
    called: list[str] = []
    bench.channel.when_broken(lambda: called.append("called"))
    reset(bench.workload)
    bench.poller.settle()
    assert called == ["called"]


def test_close_sends_what_is_queued(bench: Bench) -> None:
    """A close waits, out of sight, until what was queued has left; then the socket is free."""
    bench.channel.send_nowait(bytes(LARGE))
    bench.channel.close()
    assert bench.poller.watched
    bench.poller.until(lambda: len(bench.reader.read()) == LARGE)
    bench.poller.settle()
    assert bench.reader.ended() == "end"
    assert not bench.poller.watched


def test_close_does_not_wait_for_ever(bench: Bench) -> None:
    """What is queued is given up when its reader is gone."""
    bench.channel.send_nowait(bytes(LARGE))
    bench.channel.close()
    reset(bench.workload)
    bench.poller.settle()
    assert not bench.poller.watched
    assert bench.near.fileno() == -1


def test_abort_resets(bench: Bench) -> None:
    """An abort cannot be taken for an end."""
    bench.channel.send_nowait(b"half an answer")
    bench.channel.abort()
    assert bench.reader.ended() == "reset"
    assert not bench.poller.watched


def test_abort_behind_a_close(bench: Bench) -> None:
    """What a close left to be sent can still be given up."""
    bench.channel.send_nowait(bytes(LARGE))
    bench.channel.close()
    bench.channel.abort()
    assert not bench.poller.watched


def test_room_again(bench: Bench) -> None:
    """`send_nowait` says that there is room again when the far side has read."""
    shrink(bench.near)
    while bench.channel.send_nowait(bytes(65_536)):
        pass
    assert not bench.channel.send_nowait(b"")
    bench.poller.until(lambda: bool(bench.reader.read()) and bench.channel.send_nowait(b""))


def test_crash(bench: Bench) -> None:
    """A bug in a handler costs the connection, and whoever uses it is told."""
    bench.channel.on_crash(ZeroDivisionError())
    assert bench.channel.broken
    assert bench.reader.ended() == "reset"

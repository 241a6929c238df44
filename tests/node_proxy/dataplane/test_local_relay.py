import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from node_proxy.dataplane.local_relay import LocalRelay
from node_proxy.dataplane.telemetry import Traffic
from tests.fakes.poller import EpollPoller
from tests.fakes.tcp import Reader, reset, send_all, send_until_blocked, tcp_pair

LARGE = 32 << 20


class Bench:
    """A relay between two real TCP connections; `caller` and `workload` are the far ends."""

    def __init__(self, poller: EpollPoller, stack: ExitStack) -> None:
        self.poller = poller
        near_caller, self.caller = tcp_pair()
        near_workload, self.workload = tcp_pair()
        for sock in (near_caller, self.caller, near_workload, self.workload):
            stack.callback(sock.close)
        self.at_caller, self.at_workload = Reader(self.caller), Reader(self.workload)
        self.outcomes: list[str] = []
        self.relay = LocalRelay(
            near_caller,
            near_workload,
            poller=poller,
            buffer=bytearray(65_536),
            on_closed=lambda _, outcome: self.outcomes.append(outcome),
        )
        self.relay.start()

    def settle(self) -> None:
        """Let everything happen that can."""
        self.poller.settle()

    def other_end(self, sock: socket.socket) -> Reader:
        """Give the reader at the end to which `sock` sends."""
        return self.at_workload if sock is self.caller else self.at_caller


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give a relay that has begun."""
    with EpollPoller() as poller, ExitStack() as stack:
        yield Bench(poller, stack)


@pytest.fixture(params=["caller", "workload"])
def sender(request: pytest.FixtureRequest, bench: Bench) -> socket.socket:
    """Give each end in turn."""
    end: socket.socket = getattr(bench, request.param)
    return end


def test_bytes_both_ways(bench: Bench) -> None:
    """Each side gets what the other wrote."""
    bench.caller.send(b"question")
    bench.workload.send(b"answer")
    bench.settle()
    assert (bench.at_workload.read(), bench.at_caller.read()) == (b"question", b"answer")


def test_traffic_is_counted(bench: Bench) -> None:
    """`sent` is what the caller sent, `received` what the workload did."""
    bench.caller.send(b"12345")
    bench.workload.send(b"123")
    bench.settle()
    assert bench.relay.traffic == Traffic(sent=5, received=3)


def test_much(bench: Bench, sender: socket.socket) -> None:
    """Megabytes arrive whole and in order while the other end reads."""
    payload = bytes(range(256)) * 8000
    reader = bench.other_end(sender)
    for position in range(0, len(payload), 100_000):
        send_all(sender, payload[position : position + 100_000], bench.poller)
        reader.read()
    bench.poller.until(lambda: len(reader.read()) == len(payload))
    assert reader.data == payload


def test_half_close(bench: Bench, sender: socket.socket) -> None:
    """One side's end arrives behind its bytes, and the other direction goes on."""
    receiver = bench.workload if sender is bench.caller else bench.caller
    sender.send(b"all")
    sender.shutdown(socket.SHUT_WR)
    bench.settle()
    assert bench.other_end(sender).ended() == "end"
    assert bench.other_end(sender).data == b"all"
    receiver.send(b"more")
    bench.settle()
    assert bench.other_end(receiver).read() == b"more"
    assert bench.outcomes == []


def test_done_when_both_have_ended(bench: Bench, sender: socket.socket) -> None:
    """After the second end the relay is done, cleanly at both ends."""
    receiver = bench.workload if sender is bench.caller else bench.caller
    sender.shutdown(socket.SHUT_WR)
    bench.settle()
    receiver.shutdown(socket.SHUT_WR)
    bench.settle()
    assert bench.outcomes == ["done"]
    assert (bench.at_caller.ended(), bench.at_workload.ended()) == ("end", "end")
    assert bench.poller.watched == set()


def test_reader_that_stalls_stops_the_sender(bench: Bench, sender: socket.socket) -> None:
    """When one end does not read, the other cannot send without bound."""
    sent = send_until_blocked(sender, bench.poller.turn)
    assert sent < LARGE
    bench.settle()


def test_stalled_reader_gets_everything_in_the_end(bench: Bench, sender: socket.socket) -> None:
    """What waited is delivered when the reader reads again."""
    sent = send_until_blocked(sender, bench.poller.turn)
    reader = bench.other_end(sender)
    bench.poller.until(lambda: len(reader.read()) == sent)


def test_stall_in_one_direction_leaves_the_other(bench: Bench, sender: socket.socket) -> None:
    """Backpressure one way does not stop the other way."""
    receiver = bench.workload if sender is bench.caller else bench.caller
    send_until_blocked(sender, bench.poller.turn)
    receiver.send(b"still here")
    bench.poller.until(lambda: bench.other_end(receiver).read() == b"still here")


def test_close_during_a_stall_loses_nothing(bench: Bench, sender: socket.socket) -> None:
    """An end that sent everything and closed while the other stalled has it all delivered."""
    sent = send_until_blocked(sender, bench.poller.turn)
    sender.close()
    bench.settle()
    reader = bench.other_end(sender)
    bench.poller.until(lambda: bool(reader.ended()))
    assert (reader.ending, len(reader.data)) == ("end", sent)


def test_hang_up_during_a_stall_loses_nothing(bench: Bench, sender: socket.socket) -> None:
    """The same when the stalled end has ended its own direction: epoll then reports EPOLLHUP unasked."""
    receiver = bench.workload if sender is bench.caller else bench.caller
    receiver.shutdown(socket.SHUT_WR)
    bench.settle()
    sent = 0
    # As little as stalls the reader, so that the end arrives behind it and is not read.
    while len(bench.poller.watched) == 2:
        sent += sender.send(bytes(1 << 16))
        bench.settle()
    sender.close()
    bench.settle()
    assert bench.outcomes == []
    reader = bench.other_end(sender)
    bench.poller.until(lambda: bool(reader.ended()))
    assert (reader.ending, len(reader.data)) == ("end", sent)
    assert bench.outcomes == ["done"]


def test_stall_in_both_directions(bench: Bench) -> None:
    """Two ends that both stall and then read get everything."""
    up = send_until_blocked(bench.caller, bench.poller.turn)
    down = send_until_blocked(bench.workload, bench.poller.turn)
    bench.poller.until(
        lambda: (len(bench.at_workload.read()), len(bench.at_caller.read())) == (up, down),
    )


def test_reset(bench: Bench, sender: socket.socket) -> None:
    """One end's RST is the other's, not a clean end."""
    reset(sender)
    bench.settle()
    assert bench.other_end(sender).ended() == "reset"
    assert len(bench.outcomes) == 1
    assert bench.poller.watched == set()


def test_reset_after_an_end(bench: Bench, sender: socket.socket) -> None:
    """The same when the other direction had ended already."""
    receiver = bench.workload if sender is bench.caller else bench.caller
    receiver.shutdown(socket.SHUT_WR)
    bench.settle()
    reset(sender)
    bench.settle()
    assert bench.other_end(sender).ended() == "reset"
    assert len(bench.outcomes) == 1


def test_reset_by_a_stalled_reader(bench: Bench, sender: socket.socket) -> None:
    """A reader that breaks off while bytes wait for it resets the sender."""
    receiver = bench.workload if sender is bench.caller else bench.caller
    send_until_blocked(sender, bench.poller.turn)
    reset(receiver)
    bench.settle()
    assert bench.other_end(receiver).ended() == "reset"
    assert len(bench.outcomes) == 1


def test_cut(bench: Bench) -> None:
    """A cut resets both ends, and its reason is the outcome, said once."""
    bench.relay.cut("policy: default/no-web")
    bench.relay.cut("again")
    assert (bench.at_caller.ended(), bench.at_workload.ended()) == ("reset", "reset")
    assert bench.outcomes == ["policy: default/no-web"]


def test_half_closed_and_idle_is_quiet(bench: Bench, sender: socket.socket) -> None:
    """A half-closed relay that says nothing costs nothing: no busy loop."""
    sender.shutdown(socket.SHUT_WR)
    bench.settle()
    bench.settle()
    assert bench.outcomes == []

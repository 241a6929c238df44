"""Bandwidth: lets bytes to and from a workload pass at the rate its services' policies give, evenly.

A `PacedSide` is a `SocketSide` that reads and writes no faster; whoever uses it notices nothing but a socket
that is ready less often. So backpressure is what it always is: the window of a stream, a full buffer.
"""

import select
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node_proxy.buckets import Buckets
from node_proxy.dataplane.pacer import Paced, Pacer
from node_proxy.dataplane.socket_side import SocketSide
from node_proxy.tunnel.handlers import Poller, PollHandler
from registry.rules.limits.bucket import Bucket
from registry.rules.limits.compiled import LEAST_BURST

# Seconds' worth of bytes that pass in one piece, so that many connections have their turns often.
PIECE = 0.005


@dataclass(frozen=True, slots=True)
class Meter:
    """A bucket of bytes in the shared memory; `named` as in `Buckets.take`."""

    bucket: Bucket
    key: int
    named: bool

    @property
    def piece(self) -> int:
        """The bytes for which it is worth to wake up."""
        return max(LEAST_BURST, int(PIECE / self.bucket.interval))


class Lane:
    """One direction of one connection, under one or more limits.

    Args:
        buckets: the node's.
        meters: what all that passes is counted by.
        clock: the worker's.
        pacer: calls those that wait.
    """

    def __init__(
        self, buckets: Buckets, meters: Sequence[Meter], clock: Callable[[], float], pacer: Pacer
    ) -> None:
        self._buckets = buckets
        self._meters = meters
        self._clock = clock
        self._pacer = pacer
        # What the last `take` lacked, and for how long.
        self._short: Meter = meters[0]
        self._delay = 0.0

    def take(self, wanted: int) -> int:
        """Give how many bytes of `wanted` may pass now; after 0, `wait`."""
        now = self._clock()
        count = wanted
        for number, meter in enumerate(self._meters):
            there, delay = self._buckets.draw(
                meter.key, meter.bucket, now, count, min(count, meter.piece), named=meter.named
            )
            if there < count:
                self._return(self._meters[:number], count - there)
                count = there
            if not count:
                self._short, self._delay = meter, delay
                return 0
        return count

    def give_back(self, unused: int) -> None:
        """Return what `take` gave and did not pass."""
        if unused:
            self._return(self._meters, unused)

    def wait(self, waiter: Paced) -> None:
        """Call `waiter` when something may pass."""
        meter = self._short
        step = meter.piece * meter.bucket.interval
        self._pacer.wait(meter.key, waiter, delay=self._delay, step=step)

    def forget(self, waiter: Paced) -> None:
        """Call `waiter` no more; harmless when it does not wait."""
        self._pacer.forget(self._short.key, waiter)

    def _return(self, meters: Sequence[Meter], count: int) -> None:
        for meter in meters:
            self._buckets.give_back(meter.key, meter.bucket, count, named=meter.named)


@dataclass(frozen=True, slots=True)
class Shaper:
    """Both directions of one connection, seen from the workload; None is not paced.

    `upload` is what is written to the workload, `download` what is read from it.
    """

    upload: Lane | None
    download: Lane | None


class _Turn:
    """One direction of a side: whether it waits for its turn."""

    __slots__ = ("_lane", "_side", "waiting")

    def __init__(self, side: "PacedSide", lane: Lane) -> None:
        self._side = side
        self._lane = lane
        self.waiting = False

    def take(self, wanted: int) -> int:
        """Give how many bytes may pass; with 0 it waits."""
        if self.waiting:
            return 0
        count = self._lane.take(wanted)
        if not count:
            self.waiting = True
            self._lane.wait(self)
        return count

    def give_back(self, unused: int) -> None:
        """Return what did not pass."""
        self._lane.give_back(unused)

    def forget(self) -> None:
        """Wait no more."""
        if self.waiting:
            self._lane.forget(self)

    def on_paced(self) -> None:
        """Let the side be watched again: the poller finds it ready at once, if it is."""
        self.waiting = False
        self._side.watch_again()

    def on_crash(self, error: Exception) -> None:
        """Let the side's user give up."""
        self._side.crash(error)


class PacedSide(SocketSide):
    """A workload's socket that gives and takes no faster than a `Shaper` allows."""

    __slots__ = ("_paused", "_reading", "_reads", "_writes")

    def __init__(self, sock: socket.socket, poller: Poller, shaper: Shaper) -> None:
        super().__init__(sock, poller)
        self._reads = None if shaper.download is None else _Turn(self, shaper.download)
        self._writes = None if shaper.upload is None else _Turn(self, shaper.upload)
        self._reading = False
        self._paused = False

    def start(self, handler: PollHandler, *, reading: bool) -> None:
        """As a side that is not paced."""
        self._reading = reading
        super().start(handler, reading=reading)

    def watch(self, *, reading: bool, paused: bool = False) -> None:
        """As a side that is not paced; what waits for its turn is not watched for until then."""
        self._reading, self._paused = reading, paused
        self.watch_again()

    def watch_again(self) -> None:
        """Watch for what was asked for last, and may be."""
        no_read = self._reads is not None and self._reads.waiting
        no_write = self._writes is not None and self._writes.waiting
        mask = select.EPOLLIN if self._reading and not no_read else 0
        if self._pending and not no_write:
            mask |= select.EPOLLOUT
        # A hang-up is reported whatever is asked for, and what came before it is not read until the turn.
        self._watch_for(mask, wanted=bool(mask) or not (self._paused or no_read or no_write))

    def read_into(self, view: memoryview) -> int:
        """As a side that is not paced; nothing is there until the turn comes."""
        if self._reads is None:
            return super().read_into(view)
        room = self._reads.take(len(view))
        if not room:
            self.watch_again()
            raise BlockingIOError
        count = 0
        try:
            count = super().read_into(view[:room])
        finally:
            self._reads.give_back(room - count)
        return count

    def write(self, data: memoryview) -> int:
        """As a side that is not paced; what may not pass yet is kept."""
        if self._writes is None:
            return super().write(data)
        sent = 0 if self._pending else self._send(self._writes, data)
        if sent < len(data):
            self._pending += data[sent:]
        return sent

    def flush(self) -> int:
        """As a side that is not paced."""
        if self._writes is None:
            return super().flush()
        with memoryview(self._pending) as view:
            sent = self._send(self._writes, view)
        del self._pending[:sent]
        return sent

    def close(self, *, abort: bool = False) -> None:
        """As a side that is not paced."""
        for turn in (self._reads, self._writes):
            if turn is not None:
                turn.forget()
        super().close(abort=abort)

    def crash(self, error: Exception) -> None:
        """Let whoever uses the side give up."""
        if self._handler is not None:
            self._handler.on_crash(error)

    def _send(self, writes: _Turn, data: memoryview) -> int:
        room = writes.take(len(data))
        if not room:
            self.watch_again()
            return 0
        sent = 0
        try:
            sent = self._sock.send(data[:room])
        except BlockingIOError:
            sent = 0
        finally:
            writes.give_back(room - sent)
        return sent


def open_side(sock: socket.socket, poller: Poller, shaper: Shaper | None) -> SocketSide:
    """Give a workload's socket with what paces it, if anything does."""
    return SocketSide(sock, poller) if shaper is None else PacedSide(sock, poller, shaper)

"""Endpoints of a service as processes of their own, which can be killed and stalled, and load on them.

All times are seconds of `time.monotonic`, which the processes share.
"""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import Process, Processes
from tests.support.programs.counted_service import TALLY

SERVICE = "tests.support.programs.counted_service"
LOAD = "tests.support.programs.open_load"
PATIENCE = 20.0


@dataclass(frozen=True)
class Member:
    """One endpoint."""

    name: str
    process: Process
    tally: Path
    port: int

    @property
    def asked(self) -> int:
        """How many requests it has read, whether it still lives or not."""
        return int(TALLY.unpack(self.tally.read_bytes())[0])

    @property
    def under_way(self) -> int:
        """How many it has read and not answered."""
        asked, answered = TALLY.unpack(self.tally.read_bytes())
        return int(asked - answered)

    def kill(self) -> None:
        """End it at once, as the kernel does when memory is short."""
        self.process.kill()

    def stall(self) -> None:
        """Stop it where it is: its connections stay open, and connecting to it goes well."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.signal(signal.SIGCONT)


class Crew:
    """Starts endpoints."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def start(self, name: str, *, delay: float = 0.0, status: int = 200) -> Member:
        """Start an endpoint that answers so, after `delay` seconds."""
        return self.start_all(name, delay=delay, status=status)[0]

    def start_all(self, *names: str, delay: float = 0.0, status: int = 200) -> list[Member]:
        """Start several endpoints, which takes no longer than one."""
        started = []
        for name in names:
            tally = self._processes.folder / f"{name}.tally"
            tally.write_bytes(TALLY.pack(0, 0))
            options = ("--name", name, "--tally", str(tally), "--delay", str(delay), "--status", str(status))
            started.append((name, self._processes.start_module(name, (), SERVICE, *options), tally))
        return [
            Member(name, process, tally, int(process.wait_log("serving").split()[1]))
            for name, process, tally in started
        ]


@dataclass(frozen=True)
class Done:
    """A request that is over. `by` is who answered, `error` what went wrong when there was no answer."""

    due: float
    sent: float
    ended: float
    method: str
    status: int
    by: str
    error: str
    reason: str = ""

    @property
    def seconds(self) -> float:
        """How long its caller waited, from the moment it was to be sent."""
        return self.ended - self.due

    @property
    def failed(self) -> bool:
        """Whether it did not get what it asked for."""
        return self.status != 200


@dataclass
class OpenLoad:
    """Requests at a steady rate from a process of their own."""

    process: Process
    _read: int = 0
    _done: list[Done] = field(default_factory=list)

    def done(self) -> list[Done]:
        """Give what is over so far, in the order of its end."""
        with self.process.log.open("rb") as log:
            log.seek(self._read)
            # The last line may not be whole yet.
            text, newline, _ = log.read().rpartition(b"\n")
        self._read += len(text) + len(newline)
        self._done += [Done(**json.loads(line)) for line in text.splitlines()]
        return self._done

    def wait(self, count: int) -> None:
        """Wait until so many more requests are over."""
        wanted = len(self.done()) + count
        self.wait_for(lambda done: len(done) >= wanted, f"{wanted} requests to be over")

    def wait_for(self, condition: Callable[[list[Done]], object], what: str) -> None:
        """Wait until something is true of what is over."""
        self.process.wait_ready(lambda: condition(self.done()), what=what, deadline=PATIENCE)

    def stop(self) -> list[Done]:
        """Let everyone have its answer; give all that was done."""
        assert self.process.stop() == 0, self.process.tail()
        return self.done()


@contextmanager
def open_load(
    processes: Processes,
    port: int,
    *,
    rate: float,
    methods: Sequence[str] = ("GET",),
    address: str = "127.0.0.1",
    prefix: Sequence[str] = (),
) -> Iterator[OpenLoad]:
    """Ask at a steady rate, the methods in turn, until the block ends; `prefix` puts it onto a host."""
    options = (str(port), "--rate", str(rate), "--methods", ",".join(methods))
    load = OpenLoad(processes.start_module("load", prefix, LOAD, address, *options))
    try:
        load.wait(1)
        yield load
    finally:
        load.process.stop()


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value that `share` of all are not above."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]

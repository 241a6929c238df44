"""A crowd of callers through a pair of workers: it comes, rests, works, goes, and comes again."""

import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from socket import socket

import pytest

from node_proxy.control import Report
from node_proxy.dataplane import telemetry
from tests.integration.levels import Level, drain, level, total, wait_open
from tests.integration.pair import Pair
from tests.integration.worker import LogLine
from tests.integration.workloads import read_exactly

IDLE = 10_000
ACTIVE = 2_000
# How often each of the active asks.
ROUNDS = 20
# What is dialled before the first of them must have answered: fewer than any listener's queue holds.
DIALLED_AT_ONCE = 64
# Each process on the way holds one for each connection; the rest is for tunnels and what it has anyway.
DESCRIPTORS = IDLE + ACTIVE + 1_000


@dataclass
class Course:
    """What one worker went through.

    `levels` are by moment: ``before`` anybody came, with the ``idle`` alone, ``after`` all had gone, and
    with as many idle ones of ``another`` crowd. `reports` are of when all were ``there`` and all ``gone``.
    """

    levels: dict[str, Level] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    last_words: LogLine = field(default_factory=dict)


@dataclass
class Crowd:
    """The courses of both workers, by name."""

    courses: dict[str, Course]

    @property
    def tunnels(self) -> float:
        """How many tunnels the crowd was in."""
        return total(self.courses["far"].reports["there"], telemetry.TUNNELS_OPEN)


@contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Let this process, and those it starts meanwhile, have at least `count` descriptors."""
    former, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < count:
        pytest.skip(f"a process may have {most} descriptors here, and {count} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (former, most))


def watch_crowd(pair: Pair) -> Crowd:
    """Let the crowd come to the service ``echo`` and go; whoever gets no answer, or a wrong one, fails."""
    workers = (pair.near, pair.far)
    crowd = Crowd({worker.node: Course() for worker in workers})

    def note(moment: str) -> None:
        for worker in workers:
            crowd.courses[worker.node].levels[moment] = level(worker)

    def wait_until_open(count: int, moment: str) -> None:
        for worker in workers:
            crowd.courses[worker.node].reports[moment] = wait_open(worker, count)

    with ExitStack() as first_comers:
        _gather(pair, first_comers, DIALLED_AT_ONCE)
    wait_until_open(0, "gone")
    note("before")
    with ExitStack() as stack:
        idle = _gather(pair, stack, IDLE)
        note("idle")
        active = _gather(pair, stack, ACTIVE)
        for topic in range(ROUNDS):
            _ask(active, topic)
        _ask(idle, ROUNDS)
        wait_until_open(IDLE + ACTIVE, "there")
    wait_until_open(0, "gone")
    note("after")
    with ExitStack() as stack:
        _gather(pair, stack, IDLE)
        note("another")
    wait_until_open(0, "gone")
    for worker in workers:
        crowd.courses[worker.node].last_words = drain(worker)
    return crowd


def _gather(pair: Pair, stack: ExitStack, count: int) -> list[socket]:
    """Open so many connections, each of which has been answered once."""
    gathered: list[socket] = []
    while len(gathered) < count:
        size = min(DIALLED_AT_ONCE, count - len(gathered))
        dialled = [stack.enter_context(pair.call("echo")) for _ in range(size)]
        _ask(dialled, len(gathered))
        gathered += dialled
    return gathered


def _ask(connections: list[socket], topic: int) -> None:
    """Ask on all before any answer is read, each what no other asks."""
    questions = [b"%8d %8d" % (topic, number) for number in range(len(connections))]
    for connection, question in zip(connections, questions, strict=True):
        connection.sendall(question)
    for connection, question in zip(connections, questions, strict=True):
        assert read_exactly(connection, len(question)) == question

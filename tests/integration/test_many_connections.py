"""10,000 connections that rest and 2,000 that work, at once, through one pair of workers.

They come and go once, for all tests; each test claims one thing of what was noted meanwhile.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from node_proxy.dataplane import telemetry
from tests.integration.certificates import Authority
from tests.integration.crowd import ACTIVE, DESCRIPTORS, IDLE, Course, Crowd, many_descriptors, watch_crowd
from tests.integration.levels import total
from tests.integration.pair import run_pair
from tests.support.processes import Processes

BYTES_FOR_ONE = 12_000
# At least, on the average; a tunnel takes about twice as many.
SHARING = 500
# Of what the first crowd took: how much more another of its size may, since what the first has left is
# found when the collector next runs.
LOST = 0.5


@pytest.fixture(scope="module")
def crowd(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    """Let the crowd come and go; the workload is a process of its own, for its descriptors."""
    folder: Path = tmp_path_factory.mktemp("crowd")
    with many_descriptors(DESCRIPTORS), Processes(folder) as processes:
        service = processes.start_module("echo", [], "tests.support.programs.echo_service")
        port = int(service.wait_log("serving").rpartition(" ")[2])
        with run_pair(authority, {"echo": [port]}) as pair:
            yield watch_crowd(pair)
        assert service.text().count("\n") == 1, service.tail()


@pytest.fixture(params=["near", "far"])
def course(crowd: Crowd, request: pytest.FixtureRequest) -> Course:
    """Give what one of the workers went through."""
    return crowd.courses[request.param]


def test_all_are_open_at_once(course: Course) -> None:
    """A worker has 12,000 connections open together, and each was answered rightly whenever it asked."""
    assert total(course.reports["there"], telemetry.CONNECTIONS_OPEN) == IDLE + ACTIVE


def test_they_share_tunnels(crowd: Crowd) -> None:
    """Hundreds of connections are in each tunnel."""
    assert 0 < crowd.tunnels <= (IDLE + ACTIVE) / SHARING


def test_nobody_is_refused_or_cut(course: Course) -> None:
    """Every connection that was opened ended by itself."""
    gone = course.reports["gone"]
    opened = total(gone, telemetry.CONNECTIONS_OPENED)
    assert opened > IDLE + ACTIVE
    assert total(gone, telemetry.CONNECTIONS_CLOSED, outcome="done") == opened
    for name in (telemetry.STREAMS_REFUSED, telemetry.CRASHES, telemetry.LIMIT_REACHED):
        assert total(gone, name) == 0


def test_an_idle_connection_costs_little_memory(course: Course) -> None:
    """A worker grows by no more than 12 KB for each connection that rests."""
    assert course.levels["idle"].memory - course.levels["before"].memory <= IDLE * BYTES_FOR_ONE


def test_descriptors_are_given_back(course: Course, crowd: Crowd) -> None:
    """When the crowd has gone, a worker has its former descriptors and one for each tunnel."""
    assert course.levels["after"].descriptors <= course.levels["before"].descriptors + crowd.tunnels


def test_memory_is_used_again(course: Course) -> None:
    """Another crowd lives in the memory that the first has left."""
    levels = course.levels
    grown = levels["idle"].memory - levels["before"].memory
    assert levels["another"].memory - levels["after"].memory <= LOST * grown


def test_nothing_is_left_open(course: Course) -> None:
    """At the end a worker has no stream and no connection to cut."""
    assert course.last_words["cut_inbound"] == 0
    assert course.last_words["cut_outbound"] == 0

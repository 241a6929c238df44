"""One tunnel with a bulk flow, a reader that does not read, and someone who only wants short answers."""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from socket import SHUT_WR, socket

import pytest

from node_proxy.dataplane import telemetry
from tests.integration.certificates import Authority
from tests.integration.hogs import Bulk, gush, receive, send, stuff, swallow
from tests.integration.levels import total, wait_open
from tests.integration.pair import Pair, run_pair
from tests.integration.workloads import (
    PATIENCE,
    Handler,
    Stalled,
    blocks,
    digest_of_blocks,
    echo,
    read_exactly,
    read_to_end,
    run_workload,
    source,
)

MEBIBYTE = 1 << 20
# More than all windows and buffers on the way hold.
FLOOD = 256 * MEBIBYTE
LONG = 64 * MEBIBYTE
STAGES = 20
QUESTIONS = 10
BULK_OF_A_STAGE = 4 * MEBIBYTE
LONGEST_QUESTION = 2_000


class Scene:
    """A pair of workers with each kind of workload, and callers that were all put into one tunnel."""

    def __init__(self, pair: Pair, stalled: Stalled, stack: ExitStack) -> None:
        self.stalled = stalled
        self._pair = pair
        self._stack = stack
        self._random = random.Random(3)  # noqa: S311 - test data

    def call(self, *names: str) -> list[socket]:
        """Connect to these services and to ``echo``, which comes first of what is given."""
        callers = [self._stack.enter_context(self._pair.call(name)) for name in ("echo", *names)]
        # Before there is any load that could make a worker open another tunnel.
        assert total(wait_open(self._pair.far, len(callers)), telemetry.TUNNELS_OPEN) == 1
        return callers

    def ask(self, caller: socket) -> None:
        """Ask something short and check the answer."""
        question = self._random.randbytes(self._random.randrange(1, LONGEST_QUESTION))
        caller.sendall(question)
        assert read_exactly(caller, len(question)) == question

    def converse(self, caller: socket, bulk: Bulk) -> None:
        """Ask on, stage by stage, in each of which the bulk flow must get on too."""
        deadline = time.monotonic() + PATIENCE
        for stage in range(STAGES):
            goal = bulk.moved + BULK_OF_A_STAGE
            asked = 0
            while asked < QUESTIONS or bulk.moved < goal:
                assert time.monotonic() < deadline, f"the bulk flow is stuck in stage {stage}"
                self.ask(caller)
                asked += 1


@pytest.fixture
def scene(authority: Authority) -> Iterator[Scene]:
    """Run the pair and its workloads."""
    stalled = Stalled()
    handlers: dict[str, Handler] = {
        "echo": echo,
        "swallow": swallow,
        "gush": gush,
        "stalled": stalled,
        "source": source(LONG),
    }
    with ExitStack() as stack:
        services = {
            name: [stack.enter_context(run_workload(handler)).port] for name, handler in handlers.items()
        }
        pair = stack.enter_context(run_pair(authority, services))
        # Whoever still waits for it ends with the test.
        stack.callback(stalled.released.set)
        yield Scene(pair, stalled, stack)


def test_answers_come_beside_an_upload_and_a_stalled_workload(scene: Scene) -> None:
    """Neither a flow that fills the tunnel nor a workload that does not read keeps answers from a third."""
    asker, bulk, stuck = scene.call("swallow", "stalled")
    sent = stuff(stuck, FLOOD)
    assert sent < FLOOD
    with Bulk(bulk, send) as flow:
        scene.converse(asker, flow)
    scene.stalled.released.set()
    stuck.shutdown(SHUT_WR)
    assert read_to_end(stuck).decode() == digest_of_blocks(sent)


def test_answers_come_beside_a_download_and_a_stalled_caller(scene: Scene) -> None:
    """The same the other way: bulk comes down, and a caller does not read what it is sent."""
    asker, bulk, stuck = scene.call("gush", "source")
    bulk.sendall(b"!")
    with Bulk(bulk, receive) as flow:
        scene.converse(asker, flow)
    assert all(read_exactly(stuck, len(block)) == block for block in blocks(LONG))
    assert read_to_end(stuck) == b""

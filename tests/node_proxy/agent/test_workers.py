import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.agent.workers import LAST_PAUSE, SETTLED, RestartPause, WorkerPool
from node_proxy.control import (
    Credential,
    CredentialsUpdate,
    Decided,
    ExplicitListener,
    Quotas,
    WorkerConfig,
)
from node_proxy.snapshot import Snapshot
from registry.model.mesh import DefaultAuthorization

CREDENTIALS = CredentialsUpdate(
    credentials=(Credential(identity="i", server_name="s", chain_pem="c", key_pem="k"),),
    default_identity="i",
    roots_pem="r",
)


def snapshot(revision: int, *, addresses: int = 1) -> Snapshot:
    """Give a snapshot; many addresses make it large."""
    return Snapshot(
        revision=revision,
        node="web-1",
        addresses=("10.77.0.1",) * addresses,
        trust_domain="nodemesh.local",
        default_authorization=DefaultAuthorization.ALLOW,
    )


def test_first_restart_is_fast() -> None:
    """A worker that dies once is replaced in a tenth of a second."""
    assert RestartPause().after(0.0) == 0.1
    assert RestartPause().after(3600.0) == 0.1


def test_young_deaths_slow_down() -> None:
    """One that keeps dying at its start is started less and less often, but never given up."""
    pause = RestartPause()
    pauses = [pause.after(0.1) for _ in range(30)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LAST_PAUSE
    assert pause.after(SETTLED) == 0.1


@given(lives=st.lists(st.floats(0, 100)))
def test_pause_is_bounded(lives: list[float]) -> None:
    """Whatever the history, the next start is a tenth of a second to half a minute away."""
    pause = RestartPause()
    assert all(0.1 <= pause.after(lived) <= LAST_PAUSE for lived in lives)


def exists(pid: int) -> bool:
    """Whether a process of this number is there, a zombie included."""
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        yield bound


class Pool:
    """A pool of fake workers that runs."""

    def __init__(self, count: int, listener: socket.socket, *modes: str) -> None:
        self.changes = trio.Event()
        self.decided: list[Decided] = []
        self.demanded: Counter[str] = Counter()
        self.pool = WorkerPool(
            count=count,
            config=WorkerConfig(
                node="web-1",
                trust_domain="nodemesh.local",
                tunnel_fds=(listener.fileno(),),
                captured_fds=(),
                listeners=(ExplicitListener(fd=listener.fileno(), service="a/b", port=1, workload=None),),
                default_workload=None,
                mark=0x539,
                log_level="info",
            ),
            listeners=[listener],
            changed=self._changed,
            decided=self.decided.extend,
            demanded=self.demanded.update,
            command=[sys.executable, "-m", "tests.fakes.worker", *modes],
        )
        self.pool.give_credentials(CREDENTIALS)

    def _changed(self) -> None:
        self.changes.set()
        self.changes = trio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a change makes the condition true."""
        with trio.fail_after(30):
            while not condition():
                with trio.move_on_after(0.2):
                    await self.changes.wait()

    def sample(self, name: str) -> float:
        """Give one sum over the workers."""
        return {each.name: each.value for each in self.pool.totals.samples()}.get(name, 0)

    @property
    def pids(self) -> list[int]:
        """The processes that run."""
        return [worker.pid for worker in self.pool.workers if worker.pid is not None]


@asynccontextmanager
async def running(count: int, listener: socket.socket, *modes: str) -> AsyncIterator[Pool]:
    """Run a pool; its processes are gone at the end."""
    pool = Pool(count, listener, *modes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.pool.run)
        yield pool
        nursery.cancel_scope.cancel()
    assert pool.pids == []


async def test_state_reaches_every_worker(listener: socket.socket) -> None:
    """Workers inherit the sockets, get credentials and snapshot, and confirm the revision."""
    async with running(2, listener) as pool:
        pool.pool.give_snapshot(snapshot(7))
        assert pool.pool.missing(7) != []
        await pool.until(lambda: pool.pool.missing(7) == [])
        await pool.until(lambda: pool.sample("fake_listening") == 4)
        assert pool.pool.applied_revision == 7
        assert pool.pool.running == 2
        assert pool.sample("fake_credentials") == 2
        pool.pool.give_snapshot(snapshot(8))
        await pool.until(lambda: pool.pool.applied_revision == 8)


async def test_decisions_are_handed_on(listener: socket.socket) -> None:
    """What workers decided reaches the agent, each time it is told."""
    async with running(2, listener, "--mode", "deciding") as pool:
        pool.pool.give_snapshot(snapshot(7))
        await pool.until(lambda: pool.pool.missing(7) == [])
        with trio.fail_after(30):
            while len(pool.decided) < 2:  # noqa: ASYNC110 (another process decides)
                await trio.sleep(0.01)
        assert {each.ids for each in pool.decided} == {("0a1b2c3d-0",)}


async def test_quotas_come_before_their_snapshot(listener: socket.socket) -> None:
    """Every worker knows its share of a limit before it enforces it; a successor of a dead one too."""
    async with running(2, listener) as pool:
        pool.pool.give_quotas(Quotas(shares={"default/api/all": 0.25}))
        pool.pool.give_snapshot(snapshot(7))
        await pool.until(lambda: pool.pool.missing(7) == [] and pool.sample("fake_shared") == 0.5)
        assert pool.sample("fake_shared_at") == 0
        os.kill(pool.pids[0], signal.SIGKILL)
        await pool.until(lambda: pool.pool.workers[0].restarts == 1 and pool.sample("fake_shared") == 0.5)
        pool.pool.give_quotas(Quotas(shares={"default/api/all": 0.5}))
        await pool.until(lambda: pool.sample("fake_shared") == 1.0)


async def test_demand_is_handed_on(listener: socket.socket) -> None:
    """What workers were asked for under shared limits reaches the agent."""
    async with running(2, listener, "--mode", "asked") as pool:
        pool.pool.give_snapshot(snapshot(7))
        await pool.until(lambda: pool.demanded["default/api/all#0"] == 2)


async def test_dead_worker_is_replaced(listener: socket.socket) -> None:
    """A killed worker's successor gets the newest state; the others never notice."""
    async with running(2, listener) as pool:
        pool.pool.give_snapshot(snapshot(7))
        await pool.until(lambda: pool.pool.missing(7) == [])
        victim, other = pool.pids
        os.kill(victim, signal.SIGKILL)
        await pool.until(lambda: pool.pool.workers[0].restarts == 1 and pool.pool.missing(7) == [])
        assert pool.pids[1] == other
        assert pool.pids[0] != victim
        assert pool.pool.workers[1].restarts == 0


async def test_counters_outlive_their_worker(listener: socket.socket) -> None:
    """What a dead worker had counted stays in the sums; its gauges go."""
    async with running(1, listener) as pool:
        pool.pool.give_snapshot(snapshot(7))
        await pool.until(lambda: pool.sample("fake_snapshots_total") == 1)
        os.kill(pool.pids[0], signal.SIGKILL)
        await pool.until(lambda: pool.sample("fake_snapshots_total") == 2)
        assert pool.sample("fake_credentials") == 1


async def test_crashing_workers_do_not_spin(listener: socket.socket) -> None:
    """A worker that dies of its start is started again a few times a second at most."""
    async with running(1, listener, "--mode", "crash") as pool:
        pool.pool.give_snapshot(snapshot(1))
        await pool.until(lambda: pool.pool.workers[0].restarts >= 2)
        assert pool.pool.workers[0].restarts < 10
        assert pool.pool.applied_revision == 0


async def test_slow_worker_holds_up_nobody(listener: socket.socket) -> None:
    """Giving state never waits, and a worker that reads nothing is still ended with the others."""
    async with running(1, listener, "--mode", "slow") as pool:
        await pool.until(lambda: pool.pool.running == 1)
        for revision in range(20):
            pool.pool.give_snapshot(snapshot(revision, addresses=10_000))
            await trio.lowlevel.checkpoint()
        assert pool.pool.missing(19) == ["worker 0 has applied nothing, not 19"]


async def test_newest_snapshot_wins(listener: socket.socket) -> None:
    """Of many snapshots given at once, workers get the last one."""
    async with running(1, listener) as pool:
        for revision in range(1, 50):
            pool.pool.give_snapshot(snapshot(revision))
        await pool.until(lambda: pool.pool.applied_revision == 49)
        assert pool.sample("fake_snapshots_total") <= 2


async def test_worker_that_breaks_the_protocol_is_replaced(listener: socket.socket) -> None:
    """A worker that speaks nonsense is ended and replaced."""
    async with running(1, listener, "--mode", "nonsense") as pool:
        await pool.until(lambda: pool.pool.workers[0].restarts == 1)


async def test_worker_that_cannot_be_started(listener: socket.socket) -> None:
    """A command that does not exist is a death like any other."""
    pool = Pool(1, listener)
    pool.pool._command = ["/nonexistent/worker"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.pool.run)
        await pool.until(lambda: pool.pool.workers[0].restarts == 1)
        nursery.cancel_scope.cancel()


async def test_drained_workers_exit(listener: socket.socket) -> None:
    """Told to drain, workers finish and run() ends, with no restart."""
    pool = Pool(2, listener)
    pool.pool.give_snapshot(snapshot(1))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.pool.run)
            await pool.until(lambda: pool.pool.missing(1) == [])
            pool.pool.drain(20.0)
    assert [worker.restarts for worker in pool.pool.workers] == [0, 0]
    assert pool.pool.running == 0


async def test_worker_that_reads_nothing_is_killed_after_the_deadline(listener: socket.socket) -> None:
    """A worker that never hears of the drain has the same deadline as the others."""
    pool = Pool(1, listener, "--mode", "slow")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.pool.run)
            await pool.until(lambda: pool.pool.running == 1)
            pool.pool.give_snapshot(snapshot(1, addresses=100_000))
            await trio.testing.wait_all_tasks_blocked()
            pool.pool.drain(0.2)
    assert pool.pool.running == 0


async def test_drain_before_the_first_snapshot(listener: socket.socket) -> None:
    """Workers that serve nobody yet are ended at once."""
    pool = Pool(2, listener)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.pool.run)
            await pool.until(lambda: pool.pool.running == 2)
            pool.pool.drain(3600)
    assert pool.pool.running == 0


async def test_stubborn_worker_is_killed_after_the_deadline(listener: socket.socket) -> None:
    """One that hears neither Drain nor SIGTERM is killed when its time is over."""
    pool = Pool(1, listener, "--mode", "stubborn")
    pool.pool.give_snapshot(snapshot(1))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.pool.run)
            await pool.until(lambda: pool.pool.missing(1) == [])
            (pid,) = pool.pids
            pool.pool.drain(0.2)
    assert not exists(pid)


async def test_workers_end_with_a_cancelled_pool(listener: socket.socket) -> None:
    """However the agent ends, no process is left."""
    async with running(2, listener, "--mode", "stubborn") as pool:
        await pool.until(lambda: pool.pool.running == 2)
        pids = pool.pids
    assert [pid for pid in pids if exists(pid)] == []

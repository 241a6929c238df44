"""The worker processes: started, fed with the newest state, replaced when they die, drained at the end."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec
import structlog
import trio

from node_proxy.agent.metrics import WorkerTotals
from node_proxy.buckets import Buckets
from node_proxy.control import (
    ControlChannel,
    CredentialsUpdate,
    Decided,
    Decisions,
    Demand,
    Drain,
    FromWorker,
    Place,
    Quotas,
    Ready,
    Report,
    SnapshotUpdate,
    WorkerConfig,
)
from node_proxy.errors import LocalProtocolError
from node_proxy.shares import Shares
from node_proxy.snapshot import Snapshot

WORKER_COMMAND = (sys.executable, "-m", "node_proxy.dataplane")
FIRST_PAUSE = 0.1
LAST_PAUSE = 30.0
# A worker that lived this long, in seconds, did not die of its start.
SETTLED = 10.0
# What a worker may take to exit beyond the end of its drain, or after its control socket has closed.
EXIT_GRACE = 1.0
# What a worker takes for granted.
NO_QUOTAS = Quotas(shares={})

log = structlog.get_logger("node_proxy.agent.workers")


def _nothing(_counts: Mapping[str, int]) -> None:
    """Stand for nobody who wants to know."""


class RestartPause:
    """How long to wait before a dead worker is replaced: short once, longer each time it dies young."""

    def __init__(self) -> None:
        self._young_deaths = 0

    def after(self, lived: float) -> float:
        """Give the seconds to wait after a worker that lived `lived` seconds."""
        self._young_deaths = 0 if lived >= SETTLED else self._young_deaths + 1
        return min(LAST_PAUSE, FIRST_PAUSE * 2.0 ** min(max(self._young_deaths - 1, 0), 16))


class Worker:
    """One place in the pool, held by one process after another."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.pid: int | None = None
        self.applied: int | None = None
        self.generation: int | None = None
        self.restarts = 0


class WorkerPool:
    """N workers that all have the same state.

    Args:
        count: how many.
        config: their first message.
        listeners: the sockets they inherit; `config` names them by descriptor.
        changed: called when a worker has applied a snapshot, came or went.
        decided: takes what a worker decided since it last told.
        demanded: takes what a worker was asked for under limits that all nodes share.
        command: how a worker is started; its control descriptor is added.
    """

    def __init__(
        self,
        *,
        count: int,
        config: WorkerConfig,
        listeners: Sequence[socket.socket],
        changed: Callable[[], None],
        decided: Callable[[Sequence[Decided]], None],
        demanded: Callable[[Mapping[str, int]], None] = _nothing,
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self.workers = tuple(Worker(index) for index in range(count))
        self.totals = WorkerTotals()
        self._config = config
        self._shares = Shares.make(count)
        self._buckets = Buckets.make()
        self._listeners = listeners
        self._changed = changed
        self._decided = decided
        self._demanded = demanded
        self._command = command
        self._snapshot: SnapshotUpdate | None = None
        self._credentials: CredentialsUpdate | None = None
        self._quotas = NO_QUOTAS
        self._draining = trio.Event()
        self._ready = trio.Event()
        self._deadline = 0.0
        self._news = trio.Event()

    @property
    def applied_revision(self) -> int:
        """The oldest revision that a worker enforces, 0 while none enforces any."""
        return min((worker.applied for worker in self.workers if worker.applied is not None), default=0)

    @property
    def generations(self) -> frozenset[int]:
        """The generations of credentials that workers use."""
        return frozenset(worker.generation for worker in self.workers if worker.generation is not None)

    @property
    def running(self) -> int:
        """How many are running."""
        return sum(worker.pid is not None for worker in self.workers)

    def missing(self, revision: int) -> list[str]:
        """Say which workers do not enforce `revision` yet."""
        return [
            f"worker {worker.index} is not running"
            if worker.pid is None
            else f"worker {worker.index} has applied {worker.applied or 'nothing'}, not {revision}"
            for worker in self.workers
            if worker.pid is None or worker.applied != revision
        ]

    async def wait_ready(self) -> None:
        """Return when a worker has applied a snapshot for the first time."""
        await self._ready.wait()

    def give_snapshot(self, snapshot: Snapshot) -> None:
        """Let every worker have this snapshot; one that has not taken the last one yet skips that."""
        self._snapshot = SnapshotUpdate(snapshot=snapshot)
        self._wake()

    def give_credentials(self, credentials: CredentialsUpdate) -> None:
        """Let every worker have these certificates."""
        self._credentials = credentials
        self._wake()

    def give_quotas(self, quotas: Quotas) -> None:
        """Let every worker count by these shares; one that is given a snapshot after this has them first."""
        if quotas != self._quotas:
            self._quotas = quotas
            self._wake()

    def drain(self, deadline: float) -> None:
        """Let every worker finish what is open for at most `deadline` seconds; `run` ends when all have."""
        self._deadline = deadline
        self._draining.set()
        self._wake()

    async def run(self) -> None:
        """Keep all workers running until drained; cancellation terminates them."""
        try:
            async with trio.open_nursery() as nursery:
                for worker in self.workers:
                    nursery.start_soon(self._keep_running, worker)
        finally:
            self._shares.close()
            self._buckets.close()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _keep_running(self, worker: Worker) -> None:
        pause = RestartPause()
        while not self._draining.is_set():
            started = trio.current_time()
            try:
                end = f"exit status {await self._run_once(worker)}"
            except OSError as error:
                end = f"not started: {error}"
            self._changed()
            if self._draining.is_set():
                return
            worker.restarts += 1
            wait = pause.after(trio.current_time() - started)
            log.error("worker died", worker=worker.index, reason=end, restart_in=wait)
            with trio.move_on_after(wait):
                await self._draining.wait()

    async def _run_once(self, worker: Worker) -> int:
        """Run one process to its end; gives its exit status."""
        ours, theirs = socket.socketpair()
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
            with theirs:
                shared = [fd for fd in (self._shares.fd, self._buckets.fd) if fd is not None]
                fds = (theirs.fileno(), *shared, *(each.fileno() for each in self._listeners))
                command = [*self._command, "--control-fd", str(theirs.fileno())]
                # A group of its own: Ctrl-C is for the agent, which drains workers in its own order.
                process = await trio.lowlevel.open_process(
                    command, stdin=subprocess.DEVNULL, pass_fds=fds, process_group=0
                )
            worker.pid = process.pid
            try:
                async with trio.open_nursery() as nursery:
                    # type[] cannot say "one of a union".
                    channel: ControlChannel[FromWorker] = ControlChannel(stream, FromWorker)  # type: ignore[arg-type]
                    nursery.start_soon(self._feed, channel, worker, process)
                    nursery.start_soon(self._kill_after_drain, process)
                    nursery.start_soon(self._listen, channel, worker, process)
                    await process.wait()
                    nursery.cancel_scope.cancel()
            finally:
                await _end(process)
                worker.pid = worker.applied = worker.generation = None
                self.totals.retire(worker.index)
                self._shares.leave(worker.index)
        return await process.wait()

    async def _feed(self, channel: ControlChannel[FromWorker], worker: Worker, process: trio.Process) -> None:
        """Send what is newest, again and again; a slow worker holds up only itself."""
        with suppress(trio.BrokenResourceError):
            place = Place(
                index=worker.index,
                workers=len(self.workers),
                shares_fd=self._shares.fd,
                buckets_fd=self._buckets.fd,
            )
            await channel.send(msgspec.structs.replace(self._config, place=place))
            credentials: CredentialsUpdate | None = None
            snapshot: SnapshotUpdate | None = None
            quotas = NO_QUOTAS
            while True:
                news = self._news
                if self._draining.is_set():
                    if credentials is None or snapshot is None:
                        # It serves nobody yet, so there is nothing to drain.
                        process.terminate()
                    else:
                        await channel.send(Drain(deadline=self._deadline))
                    return
                if self._credentials is not None and self._credentials is not credentials:
                    credentials = self._credentials
                    await channel.send(credentials)
                elif self._quotas is not quotas:
                    quotas = self._quotas
                    await channel.send(quotas)
                elif self._snapshot is not None and self._snapshot is not snapshot:
                    snapshot = self._snapshot
                    await channel.send(snapshot)
                else:
                    await news.wait()

    async def _kill_after_drain(self, process: trio.Process) -> None:
        await self._draining.wait()
        await trio.sleep(self._deadline + EXIT_GRACE)
        process.kill()

    async def _listen(
        self, channel: ControlChannel[FromWorker], worker: Worker, process: trio.Process
    ) -> None:
        try:
            while (batch := await channel.receive_batch()) is not None:
                for message in batch:
                    match message:
                        case Ready(revision=revision, generation=generation):
                            worker.applied, worker.generation = revision, generation
                            self._ready.set()
                            self._changed()
                        case Report(samples=samples):
                            self.totals.update(worker.index, samples)
                        case Decisions(decided=decided):
                            self._decided(decided)
                        case Demand(counts=counts):
                            self._demanded(counts)
        except LocalProtocolError:
            log.exception("worker broke the control protocol", worker=worker.index)
        if not self._draining.is_set():
            # It closed its control socket: it is on its way out, or lost for us.
            await trio.sleep(EXIT_GRACE)
            process.kill()


async def _end(process: trio.Process) -> None:
    """Terminate a process that still runs, and reap it."""
    with trio.CancelScope(shield=True):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with trio.move_on_after(EXIT_GRACE):
                await process.wait()
        if process.poll() is None:
            process.kill()
        await process.wait()

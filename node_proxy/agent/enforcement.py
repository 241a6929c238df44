"""From the state to what is in force: snapshots for the workers, interception, and the cache on disk."""

from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from node_proxy.agent.cache import Cache, Cached
from node_proxy.agent.capture.apply import Kernel
from node_proxy.agent.capture.inputs import capture_rules, capture_view
from node_proxy.agent.capture.installing import Installer
from node_proxy.agent.capture.live import LiveCapture
from node_proxy.agent.capture.plan import CapturePlan, plan
from node_proxy.agent.capture.record import RecordFile
from node_proxy.agent.compile import Compiled, Compiler
from node_proxy.agent.records import OwnResources
from node_proxy.agent.state import MeshState
from node_proxy.config import NodeConfig
from node_proxy.errors import ConfigError

# Several edits made together become one snapshot; far below the second in which an edit must hold.
DEBOUNCE = 0.02
# Between two writes of the cache.
CACHE_INTERVAL = 2.0

log = structlog.get_logger("node_proxy.agent.enforcement")


class Enforcement:
    """Puts every change of the state in force.

    Args:
        config: the operator's files.
        state: what is enforced.
        compiler: makes snapshots of it.
        cache: keeps it across restarts.
        own: gives what this node says of itself.
        compiled: takes each new snapshot.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        state: MeshState,
        compiler: Compiler,
        cache: Cache,
        own: Callable[[], OwnResources],
        compiled: Callable[[Compiled], None],
    ) -> None:
        self._config = config
        self._state = state
        self._compiler = compiler
        self._cache = cache
        self._own = own
        self._compiled = compiled
        self._capture = LiveCapture(
            Installer(records=RecordFile(Path(config.proxy.state_dir)), kernel=Kernel())
        )
        self._plan: CapturePlan | None = None
        self._dirty = trio.Event()
        self._uncached = trio.Event()
        self._plan_error = ""

    @property
    def capture_error(self) -> str:
        """Say why interception is not as it should be, empty when it is."""
        return self._plan_error or self._capture.error

    def state_changed(self) -> None:
        """Look at the state again, soon."""
        self._dirty.set()
        self._uncached.set()

    def own_changed(self) -> None:
        """Compile again, soon: this node's own workloads are not as they were."""
        self._dirty.set()

    def restore(self) -> bool:
        """Begin with the cache; whether there was one."""
        cached = self._cache.load()
        if cached is None:
            return False
        self._state.restore(cached.revision, cached.records)
        # Lets the compiler know the endpoints that were there before, should most be missing now.
        self._compile()
        log.info("state restored from the cache", revision=cached.revision, keys=len(cached.records))
        return True

    async def enforce_changes(self) -> None:
        """Put the state in force now and after every change."""
        while True:
            self._dirty = trio.Event()
            compiled = self._compile()
            self._compiled(compiled)
            try:
                await self._intercept(compiled)
            except ConfigError as error:
                self._plan_error = str(error)
                log.error("capture stays as it was", error=str(error))  # noqa: TRY400 (the operator's fault)
            else:
                self._plan_error = ""
            await self._dirty.wait()
            await trio.sleep(DEBOUNCE)

    async def begin_capture(self) -> None:
        """Put interception in force, if it is configured, as far as the mesh is known.

        Raises:
            ConfigError: it cannot be had; what was in force stays.
        """
        await self._intercept(self._compile())

    async def keep_capture(self) -> None:
        """Look after interception, if it is configured, until cancelled."""
        if self._config.proxy.capture.enabled:
            await self._capture.keep()

    async def _intercept(self, compiled: Compiled) -> None:
        if not self._config.proxy.capture.enabled:
            return
        wanted = plan(capture_rules(self._config), capture_view(self._config, compiled))
        if wanted != self._plan:
            for note in wanted.notes:
                if self._plan is None or note not in self._plan.notes:
                    log.warning("not captured as configured", reason=note)
            await self._capture.apply(wanted)
            self._plan = wanted

    async def keep_cached(self) -> None:
        """Write every change to the cache, soon."""
        while True:
            await self._uncached.wait()
            self._uncached = trio.Event()
            cached = Cached(self._state.revision, self._state.records())
            await trio.to_thread.run_sync(self._save, cached)
            await trio.sleep(CACHE_INTERVAL)

    async def close(self, *, orderly: bool) -> None:
        """Write what is not cached yet and, if told to stop, take interception away unless it is to be kept.

        Not cut short by cancellation.
        """
        capture = self._config.proxy.capture
        # What becomes of it after a failure is the unit's ExecStopPost to say: it runs after a crash too.
        if capture.enabled and orderly and not capture.keep_on_stop:
            await self._capture.release()
        if self._uncached.is_set():
            self._save(Cached(self._state.revision, self._state.records()))

    def _compile(self) -> Compiled:
        return self._compiler.compile(self._state, own=self._own(), now=trio.current_time())

    def _save(self, cached: Cached) -> None:
        try:
            self._cache.save(cached)
        except (OSError, ConfigError) as error:
            # Traffic goes on; only a restart without etcd would begin with older state.
            log.error("cache not written", error=str(error))  # noqa: TRY400 (the disk's fault)

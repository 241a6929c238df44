"""From the state to what is in force: snapshots for the workers, interception, and the cache on disk."""

from collections.abc import Callable, Sequence

import structlog
import trio

from node_proxy.agent.cache import Cache, Cached
from node_proxy.agent.capture import Capture, CapturePlan, plan
from node_proxy.agent.compile import Compiled, Compiler
from node_proxy.agent.records import OwnResources
from node_proxy.agent.start import real_addresses
from node_proxy.agent.state import MeshState
from node_proxy.config import ProxyConfig
from node_proxy.errors import ConfigError

# Several edits made together become one snapshot; far below the second in which an edit must hold.
DEBOUNCE = 0.02
# Between two writes of the cache.
CACHE_INTERVAL = 2.0

log = structlog.get_logger("node_proxy.agent.enforcement")


class Enforcement:
    """Puts every change of the state in force.

    Args:
        proxy: the operator's settings.
        state: what is enforced.
        compiler: makes snapshots of it.
        cache: keeps it across restarts.
        own: gives what this node says of itself.
        compiled: takes each new snapshot.
    """

    def __init__(
        self,
        proxy: ProxyConfig,
        *,
        state: MeshState,
        compiler: Compiler,
        cache: Cache,
        own: Callable[[], OwnResources],
        compiled: Callable[[Compiled], None],
    ) -> None:
        self._proxy = proxy
        self._state = state
        self._compiler = compiler
        self._cache = cache
        self._own = own
        self._compiled = compiled
        self._capture = Capture()
        self._plan: CapturePlan | None = None
        self._dirty = trio.Event()
        self._uncached = trio.Event()
        self.capture_error = ""

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
                await self.capture(compiled.vip_ranges)
            except ConfigError as error:
                self.capture_error = str(error)
                log.error("capture stays as it was", error=str(error))  # noqa: TRY400 (the operator's fault)
            else:
                self.capture_error = ""
            await self._dirty.wait()
            await trio.sleep(DEBOUNCE)

    async def capture(self, vip_ranges: Sequence[str]) -> None:
        """Redirect `vip_ranges`, if interception is configured.

        Raises:
            ConfigError: it cannot be had; what was in force stays.
        """
        if not self._proxy.capture.enabled:
            return
        wanted = plan(
            vip_ranges=vip_ranges,
            port=self._proxy.capture.port,
            mark=self._proxy.mark,
            exempt_ports=self._proxy.capture.exempt_ports,
            exempt_addresses=real_addresses(self._proxy),
        )
        if wanted != self._plan:
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

    async def close(self) -> None:
        """Take interception away and write what is not cached yet. Not cut short by cancellation."""
        if self._proxy.capture.enabled:
            await self._capture.remove()
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

"""The agent's own capture: in force from its start, kept current by elements alone, and put back when lost.

An operator's word goes before the agent's: what `capture install` put in force stays until the agent starts
anew with the file that said so, and what was not confirmed is not installed again.
"""

import enum
from collections.abc import Callable

import structlog
import trio

from node_proxy.agent.capture.apply import cgroup_ids, present_cgroups
from node_proxy.agent.capture.installing import Installer, fingerprint
from node_proxy.agent.capture.plan import CapturePlan
from node_proxy.agent.capture.record import AGENT, Installed, Record
from node_proxy.agent.capture.ruleset import difference, refill
from node_proxy.agent.capture.terms import Elements
from node_proxy.errors import ConfigError

# How soon a unit that was restarted, and so has a cgroup of another id, is matched again.
CGROUP_INTERVAL = 1.0
# How soon rules that another took away (`flush ruleset` of a firewall's restart) are back.
INSPECTION_INTERVAL = 10.0

ROLLED_BACK = (
    "[capture] this ruleset was rolled back because nobody confirmed it; correct proxy.toml, or put it in "
    "force with `nodemesh-proxy capture install`"
)

log = structlog.get_logger("node_proxy.agent.capture")


class Step(enum.Enum):
    """What a plan needs: the whole table, or elements of the sets that are there."""

    INSTALL = enum.auto()
    ELEMENTS = enum.auto()


def next_step(record: Record, wanted: CapturePlan, *, taken_over: bool) -> Step:
    """Decide; `taken_over` says whether this agent has installed before."""
    installed = record.installed
    if record.trial is not None or wanted.digest == record.rolled_back:
        return Step.ELEMENTS
    if installed is None or not taken_over:
        return Step.INSTALL
    if installed.digest == wanted.digest or installed.by != AGENT:
        return Step.ELEMENTS
    return Step.INSTALL


class LiveCapture:
    """Keeps a plan in force.

    Args:
        installer: changes the capture of this host.
    """

    def __init__(self, installer: Installer) -> None:
        self._installer = installer
        self._wanted: CapturePlan | None = None
        self._taken_over = False
        # What the sets hold, and of which installation; None when that must be looked up.
        self._held: Elements | None = None
        self._of: Installed | None = None
        self._cgroups: tuple[int, ...] = ()
        self._lock = trio.Lock()
        self.error = ""

    async def apply(self, wanted: CapturePlan) -> None:
        """Put a plan in force, or its elements into what an operator installed.

        Not cut short by cancellation. What was not confirmed is not installed again, which is no failure;
        `error` says it.

        Raises:
            ConfigError: it cannot be had; what was in force stays, and `error` says why.
        """
        async with self._lock:
            self._wanted = wanted
            await self._attempt(self._apply, wanted)

    async def release(self) -> None:
        """Take everything away, unless an operator's trial is under way. Not cut short by cancellation."""
        with trio.CancelScope(shield=True):
            try:
                released = await trio.to_thread.run_sync(self._installer.release)
            except (ConfigError, OSError) as error:
                log.warning("capture not removed", error=str(error))
            else:
                if not released:
                    log.info("capture left as it is", reason="a trial is under way")

    async def keep(self) -> None:
        """Look after what is in force, until cancelled."""
        inspected = trio.current_time()
        while True:
            await trio.sleep(CGROUP_INTERVAL)
            due = trio.current_time() - inspected >= INSPECTION_INTERVAL
            if due:
                inspected = trio.current_time()
            async with self._lock:
                if self._wanted is None or not (due or cgroup_ids(self._wanted) != self._cgroups):
                    continue
                before = self.error
                try:
                    await self._attempt(self._inspect, self._wanted)
                except ConfigError as error:
                    if str(error) != before:
                        log.error("capture stays as it was", error=str(error))  # noqa: TRY400 (the operator's)

    async def _attempt(self, change: Callable[[CapturePlan], None], wanted: CapturePlan) -> None:
        try:
            await trio.to_thread.run_sync(change, wanted)
        except ConfigError as error:
            self.error = str(error)
            raise

    def _apply(self, wanted: CapturePlan) -> None:
        try:
            record = self._installer.settle()
            step = next_step(record, wanted, taken_over=self._taken_over)
            if step is Step.ELEMENTS and not self._update(record, wanted) and record.trial is None:
                step = Step.INSTALL if wanted.digest != record.rolled_back else step
            if step is Step.INSTALL:
                self._install(wanted)
        except OSError as error:
            raise ConfigError(
                f"[capture] {self._installer.records.directory}: {error.strerror}; correct state_dir"
            ) from error
        before, self.error = self.error, ROLLED_BACK if wanted.digest == record.rolled_back else ""
        if self.error and self.error != before:
            log.error("capture not in force", reason=self.error)

    def _install(self, wanted: CapturePlan) -> None:
        self._held = None
        cgroups = cgroup_ids(wanted)
        self._installer.install(wanted, by=AGENT)
        self._taken_over = True
        self._held, self._cgroups = wanted.elements, cgroups
        self._of = self._installer.records.read().installed
        log.info("capture in force", ranges=wanted.routes, ruleset=wanted.digest)

    def _update(self, record: Record, wanted: CapturePlan) -> bool:
        """Bring the sets up to date; False when there is no table."""
        if self._held is None or record.installed != self._of:
            self._held = self._installer.kernel.elements()
            self._cgroups = ()
            self._of = record.installed
        if self._held is None:
            return False
        # A table that an operator installed may have fewer sets, or more.
        after = {name: values for name, values in wanted.elements.items() if name in self._held}
        changes = difference(self._held, {**self._held, **after})
        cgroups = cgroup_ids(wanted)
        if cgroups != self._cgroups and (
            record.installed is None or record.installed.digest == wanted.digest
        ):
            changes += refill(present_cgroups(wanted))
        if changes:
            held, self._held = self._held, None
            self._installer.update(changes)
            self._held = {**held, **after}
        self._cgroups = cgroups
        return True

    def _inspect(self, wanted: CapturePlan) -> None:
        record = self._installer.records.read()
        installed = record.installed
        if record.trial is None and installed is not None and installed.by == AGENT:
            found = fingerprint(self._installer.kernel.listing(terse=True))
            if installed.as_loaded != found:
                log.warning("capture was changed by another", found="other rules" if found else "none")
                self._taken_over = False
        self._apply(wanted)

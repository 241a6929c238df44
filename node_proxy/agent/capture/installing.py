"""Puts a plan in force, on trial or for good, and takes it away, in steps of which each may be the last.

The order of the steps: what says how to go back is written before anything changes, the one nft transaction
comes last but for the record of it. Whoever finds a trial that is over ends it: the watchdog, the agent, or
the next command.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from node_proxy.agent.capture.apply import Kernel, cgroup_exists, present_cgroups, reloadable
from node_proxy.agent.capture.plan import CapturePlan
from node_proxy.agent.capture.record import Installed, Record, RecordFile, Trial, boot_id, since_boot
from node_proxy.errors import ConfigError


def utc_now() -> datetime:
    """Give the wall clock, for people to read."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Installer:
    """Changes the capture of this host, one process at a time.

    Args:
        records: what is remembered.
        kernel: what is in force.
        clock: seconds since this boot.
        boot: names this boot.
        now: the wall clock, in UTC.
    """

    records: RecordFile
    kernel: Kernel
    clock: Callable[[], float] = since_boot
    boot: Callable[[], str] = boot_id
    now: Callable[[], datetime] = utc_now

    def install(self, wanted: CapturePlan, *, by: str) -> None:
        """Put a plan in force for good.

        Raises:
            ConfigError: nft or ip failed; what was in force stays.
        """
        with self.records.locked():
            self._settle()
            self._load(wanted)
            self.records.write(Record(installed=self._installed(wanted, by)))

    def install_on_trial(
        self, wanted: CapturePlan, *, by: str, within: float, watch: Callable[[Trial], None]
    ) -> None:
        """Put a plan in force until it is confirmed or `within` seconds have passed.

        Args:
            wanted: what is to be in force.
            by: who says so.
            within: how long to wait.
            watch: starts what ends the trial; it is called before anything changes.

        Raises:
            ConfigError: nft or ip failed, or a trial is under way; what was in force stays.
        """
        with self.records.locked():
            self._settle()
            before = self.records.read()
            if before.trial is not None:
                left = before.trial.deadline - self.clock()
                raise ConfigError(
                    f"another trial ends in {left:.0f} s; `capture confirm` or `capture uninstall` it first"
                )
            trial = Trial(
                name=f"{wanted.digest}-{self.clock():.3f}",
                deadline=self.clock() + within,
                boot_id=self.boot(),
                previous=self.kernel.listing(),
                previous_routes=self.kernel.routes(),
                previous_installed=before.installed,
            )
            installed = Installed(digest=wanted.digest, by=by, at=f"{self.now():%Y-%m-%dT%H:%M:%SZ}")
            self.records.write(Record(installed=installed, trial=trial))
            try:
                watch(trial)
                self._load(wanted)
            except (OSError, ConfigError):
                self.records.write(before)
                raise
            self.records.write(Record(installed=self._installed(wanted, by), trial=trial))

    def confirm(self) -> bool:
        """Make the trial permanent; False when there is none, or it is over."""
        with self.records.locked():
            self._settle()
            record = self.records.read()
            if record.trial is None:
                return False
            self.records.write(Record(installed=record.installed))
            return True

    def settle(self) -> Record:
        """End a trial whose time is over; give what is remembered then.

        Raises:
            ConfigError: nft or ip failed; the trial is not over.
        """
        with self.records.locked():
            self._settle()
            return self.records.read()

    def uninstall(self) -> None:
        """Take everything away; what is gone already is no error.

        Raises:
            ConfigError: nft or ip failed; the message says which.
        """
        with self.records.locked():
            self._clear()
            self.records.remove()

    def release(self) -> bool:
        """Take away what is in force, as the proxy does when it stops; False when a trial under way keeps it.

        That a skeleton was rolled back stays known.
        """
        with self.records.locked():
            self._settle()
            record = self.records.read()
            if record.trial is not None:
                return False
            self._clear()
            if record.rolled_back:
                self.records.write(Record(rolled_back=record.rolled_back))
            else:
                self.records.remove()
            return True

    def update(self, changes: str) -> None:
        """Change elements of the sets, and nothing else; `changes` is nft's input."""
        with self.records.locked():
            self.kernel.load(changes)

    def _clear(self) -> None:
        self.kernel.remove()
        self._keep_routes(())

    def _load(self, wanted: CapturePlan) -> None:
        before = self.kernel.routes()
        for network in wanted.routes:
            self.kernel.add_route(network)
        try:
            self.kernel.load(wanted.ruleset(present_cgroups(wanted)))
        except ConfigError:
            self._keep_routes(before)
            raise
        self._keep_routes(wanted.routes)

    def _keep_routes(self, kept: tuple[str, ...]) -> None:
        for network in self.kernel.routes():
            if network not in kept:
                self.kernel.remove_route(network)

    def _installed(self, wanted: CapturePlan, by: str) -> Installed:
        return Installed(
            digest=wanted.digest,
            by=by,
            at=f"{self.now():%Y-%m-%dT%H:%M:%SZ}",
            as_loaded=fingerprint(self.kernel.listing(terse=True)),
        )

    def _settle(self) -> None:
        record = self.records.read()
        trial = record.trial
        if trial is None:
            return
        previous = trial.previous_installed
        tried = record.installed.digest if record.installed else ""
        if trial.boot_id != self.boot():
            # The reboot took the table away; what was there before comes with the agent.
            self.records.write(Record(rolled_back=_refused(tried, previous)))
            return
        if self.clock() < trial.deadline:
            return
        for network in trial.previous_routes:
            self.kernel.add_route(network)
        try:
            self.kernel.load(reloadable(trial.previous, cgroup_exists))
        except ConfigError:
            # What was there does not come back: no rules are better than ones that nobody confirmed.
            self.kernel.remove()
        self._keep_routes(trial.previous_routes)
        self.records.write(Record(installed=previous, rolled_back=_refused(tried, previous)))


def fingerprint(listing: str) -> str:
    """Name a listing, so that a later one can be told from it."""
    return hashlib.sha256(listing.encode()).hexdigest()[:16] if listing else ""


def _refused(tried: str, previous: Installed | None) -> str:
    """Give the skeleton that is not to come back by itself: what was tried, unless it was there before."""
    return "" if previous is not None and previous.digest == tried else tried

"""Active health checks of this node's workloads: a pure state machine and the tasks that feed it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import assert_never

import httpx
import structlog
import trio

from node_proxy.address import join_address
from node_proxy.config import HealthSection, WorkloadConfig
from registry.model.workload import Health

# Gives the empty text when the workload is well, else what is wrong.
Check = Callable[[], Awaitable[str]]

log = structlog.get_logger("node_proxy.agent.health")


class HealthMachine:
    """Turns single checks into a verdict: the first decides, later ones need a run of their kind.

    Until the first, a workload counts as unhealthy.
    """

    def __init__(self, *, unhealthy_after: int, healthy_after: int) -> None:
        self.health = Health.UNHEALTHY
        self.known = False
        self._needed = {Health.UNHEALTHY: unhealthy_after, Health.HEALTHY: healthy_after}
        self._against = 0

    def observe(self, *, well: bool) -> bool:
        """Take one check's outcome; whether the verdict changed."""
        seen = Health.HEALTHY if well else Health.UNHEALTHY
        first, self.known = not self.known, True
        self._against = 0 if seen is self.health else self._against + 1
        if seen is self.health or (not first and self._against < self._needed[seen]):
            return False
        self.health = seen
        self._against = 0
        return True


class HealthChecks:
    """The checks of all workloads; `changed` is called when a verdict changes.

    Args:
        workloads: what is checked.
        changed: called after a change.
        check_of: gives the check for a workload; None when it is not checked and counts as healthy.
    """

    def __init__(
        self,
        workloads: Sequence[WorkloadConfig],
        changed: Callable[[], None],
        check_of: Callable[[WorkloadConfig], Check | None],
    ) -> None:
        self._changed = changed
        self._checks = {workload.qualified: (workload, check_of(workload)) for workload in workloads}
        self._machines = {
            name: HealthMachine(
                unhealthy_after=workload.health.unhealthy_after,
                healthy_after=workload.health.healthy_after,
            )
            for name, (workload, check) in self._checks.items()
            if check is not None
        }
        self._all_known = trio.Event()
        self._note_known()

    @property
    def verdicts(self) -> Mapping[str, Health]:
        """Each workload's health by ``namespace/name``."""
        return {
            name: self._machines[name].health if name in self._machines else Health.HEALTHY
            for name in self._checks
        }

    async def wait_known(self) -> None:
        """Return when every workload has been checked once."""
        await self._all_known.wait()

    async def run(self) -> None:
        """Check for ever."""
        async with trio.open_nursery() as nursery:
            for workload, check in self._checks.values():
                if check is not None:
                    nursery.start_soon(self._watch, workload, check)

    async def _watch(self, workload: WorkloadConfig, check: Check) -> None:
        machine = self._machines[workload.qualified]
        while True:
            wrong = f"no answer within {workload.health.timeout} s"
            with trio.move_on_after(workload.health.timeout):
                wrong = await check()
            changed = machine.observe(well=not wrong)
            self._note_known()
            if changed:
                log.info(
                    "workload health changed",
                    workload=workload.qualified,
                    health=machine.health.value,
                    reason=wrong,
                )
                self._changed()
            await trio.sleep(workload.health.interval)

    def _note_known(self) -> None:
        if all(machine.known for machine in self._machines.values()):
            self._all_known.set()


def check_for(workload: WorkloadConfig) -> Check | None:
    """Give the check that a workload's configuration asks for."""
    settings = workload.health
    match settings.type:
        case "none":
            return None
        case "tcp":
            return lambda: _check_tcp(workload.address, _port(workload, settings))
        case "http":
            url = f"http://{join_address(workload.address, _port(workload, settings))}{settings.path}"
            return lambda: _check_http(url)
        case _:
            assert_never(settings.type)


def _port(workload: WorkloadConfig, settings: HealthSection) -> int:
    return settings.port or workload.ports[0]


async def _check_tcp(host: str, port: int) -> str:
    try:
        stream = await trio.open_tcp_stream(host, port)
    except OSError as error:
        return f"cannot connect to {join_address(host, port)}: {error}"
    await stream.aclose()
    return ""


async def _check_http(url: str) -> str:
    # verify=False: it is plain HTTP, and loading the system's roots each time would cost 20 ms.
    async with httpx.AsyncClient(verify=False, timeout=None, trust_env=False) as client:  # noqa: S501, S113
        try:
            async with client.stream("GET", url) as response:
                status = response.status_code
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{url}: {error or type(error).__name__}"
    return "" if status < 400 else f"{url} answers {status}"

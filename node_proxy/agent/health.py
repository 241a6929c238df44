"""Active health checks of this node's workloads: a pure state machine and the tasks that feed it."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import assert_never

import httpx
import structlog
import trio

from node_proxy.address import join_address
from node_proxy.config import HealthSection, WorkloadConfig
from node_proxy.proxy_header import LOCAL_HEADER
from registry.model.workload import Health

# As much of an answer as has its status, "HTTP/1.1 200", and shows where that ends.
_STATUS_LINE = 13

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
            return lambda: _check_tcp(workload.address, _port(workload, settings), _greeting(workload))
        case "http":
            host, port = workload.address, _port(workload, settings)
            if greeting := _greeting(workload):
                return lambda: _check_greeted_http(host, port, settings.path, greeting)
            url = f"http://{join_address(host, port)}{settings.path}"
            return lambda: _check_http(url)
        case _:
            assert_never(settings.type)


def _port(workload: WorkloadConfig, settings: HealthSection) -> int:
    return settings.port or workload.ports[0]


def _greeting(workload: WorkloadConfig) -> bytes:
    """Give what a check says first where the port wants to hear who calls: that it is the proxy's own."""
    wants = workload.proxy_protocol is not None and _port(workload, workload.health) in workload.ports
    return LOCAL_HEADER if wants else b""


async def _check_tcp(host: str, port: int, greeting: bytes) -> str:
    try:
        stream = await trio.open_tcp_stream(host, port)
    except OSError as error:
        return f"cannot connect to {join_address(host, port)}: {error}"
    async with stream:
        try:
            await stream.send_all(greeting)
        except trio.BrokenResourceError as error:
            return f"{join_address(host, port)} did not take the PROXY header: {error.__cause__ or error}"
    return ""


async def _check_greeted_http(host: str, port: int, path: str, greeting: bytes) -> str:
    """Ask by hand, since HTTP clients do not let anything go before the request."""
    where = join_address(host, port)
    request = f"GET {path} HTTP/1.1\r\nHost: {where}\r\nConnection: close\r\n\r\n"
    answer = b""
    try:
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(greeting + request.encode())
            while len(answer) < _STATUS_LINE and (data := await stream.receive_some(_STATUS_LINE)):
                answer += data
    except (OSError, trio.BrokenResourceError) as error:
        return f"http://{where}{path}: {error}"
    status = re.match(rb"HTTP/1\.[01] (\d{3})(?!\d)", answer)
    if status is None:
        return f"http://{where}{path} answers no HTTP"
    return "" if int(status[1]) < 400 else f"http://{where}{path} answers {int(status[1])}"


async def _check_http(url: str) -> str:
    # verify=False: it is plain HTTP, and loading the system's roots each time would cost 20 ms.
    async with httpx.AsyncClient(verify=False, timeout=None, trust_env=False) as client:  # noqa: S501, S113
        try:
            async with client.stream("GET", url) as response:
                status = response.status_code
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{url}: {error or type(error).__name__}"
    return "" if status < 400 else f"{url} answers {status}"

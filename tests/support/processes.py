"""Real processes for tests and the demo: started, awaited by what they log or answer, always ended.

Each is the leader of a session of its own, so that what it leaves behind can be ended with it, and is told
to stop by the kernel when the process that started it dies.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]
# How long a process may take to obey SIGTERM before it is killed.
GRACE = 10.0


class ProcessFailed(AssertionError):
    """A process ended, or did not get ready, against expectation; the message has the end of its log."""


def wait_until(condition: Callable[[], T], *, what: str, deadline: float, pause: float = 0.02) -> T:
    """Poll `condition` until it gives something true, for at most `deadline` seconds; give that.

    Raises:
        TimeoutError: it never did; the message is `what`.
    """
    end = time.monotonic() + deadline
    while True:
        if result := condition():
            return result
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline:g} s: {what}")
        time.sleep(pause)


@dataclass(frozen=True)
class Process:
    """One running program. `log` takes its standard output and standard error."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Its process id, which is also its session's."""
        return self.popen.pid

    def running(self) -> bool:
        """Whether it has not ended."""
        return self.popen.poll() is None

    def text(self) -> str:
        """Everything it wrote so far."""
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 25) -> str:
        """The last lines it wrote, headed by its name."""
        ending = "\n".join(self.text().splitlines()[-lines:])
        return f"--- end of the log of {self.name} ({self.log}) ---\n{ending}"

    def records(self) -> Iterator[dict[str, Any]]:
        """Give each line of its log that is a JSON object."""
        for line in self.text().splitlines():
            if line.startswith("{"):
                with contextlib.suppress(json.JSONDecodeError):
                    yield json.loads(line)

    def wait_ready(
        self, condition: Callable[[], T], *, what: str, deadline: float = 20.0, pause: float = 0.02
    ) -> T:
        """Wait for `condition` while the process runs.

        Raises:
            ProcessFailed: it ended first, or the deadline passed.
        """

        def check() -> T:
            if not self.running():
                raise ProcessFailed(f"{self.name} ended with {self.popen.returncode}\n{self.tail()}")
            return condition()

        try:
            return wait_until(check, what=what, deadline=deadline, pause=pause)
        except TimeoutError as error:
            raise ProcessFailed(f"{self.name}: {error}\n{self.tail()}") from error

    def wait_log(self, part: str, *, deadline: float = 20.0) -> str:
        """Wait for a line that contains `part`; give that line."""

        def find() -> str:
            return next((line for line in self.text().splitlines() if part in line), "")

        return self.wait_ready(find, what=f"a log line with {part!r}", deadline=deadline)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program itself; nothing when it has ended."""
        if self.running():
            self.popen.send_signal(number)

    def stop(self, *, grace: float = GRACE) -> int:
        """Ask it to end, wait, then kill whatever its session still runs; give its exit status."""
        self.signal(signal.SIGTERM)
        return self._finish(grace)

    def kill(self) -> int:
        """End it and its session at once, as a crash would."""
        return self._finish(0.0)

    def _finish(self, grace: float) -> int:
        if self.popen.returncode is not None:
            return self.popen.returncode
        end = time.monotonic() + grace
        # WNOWAIT leaves the zombie in place, so that its number cannot have been given to anybody else.
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > end:
                break
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.popen.wait()


class Processes:
    """Starts processes with their logs in `folder`; leaving the block ends them, the youngest first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Process] = []
        self._session_ids: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Process:
        """Start `command` in the repository's folder; each start of a name has a log of its own."""
        again = sum(process.name == name for process in self._started)
        log = self.folder / (f"{name}-{again + 1}.log" if again else f"{name}.log")
        with log.open("wb") as output:
            popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env={**os.environ, **(environment or {})},
                pass_fds=pass_fds,
                start_new_session=True,
            )
        process = Process(name, popen, log)
        self._started.append(process)
        self._session_ids.add(process.pid)
        return process

    def start_module(self, name: str, prefix: Sequence[str], module: str, *arguments: str) -> Process:
        """Start a module of this repository under this interpreter, behind `prefix`."""
        return self.start(name, [*prefix, sys.executable, "-m", module, *arguments])

    def survivors(self) -> list[int]:
        """The ids of processes that still run in a session of one started here, ended or not."""
        return [pid for pid, session in _sessions() if session in self._session_ids]

    def tails(self) -> str:
        """The last lines of every log."""
        return "\n".join(process.tail(8) for process in self._started)

    def stop_all(self) -> None:
        """End everything: all are asked at once, then each is awaited."""
        for process in self._started:
            process.signal(signal.SIGTERM)
        for process in reversed(self._started):
            process.stop()


def _sessions() -> Iterator[tuple[int, int]]:
    """Give each process of this machine and its session, zombies left out."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # proc(5): state, parent, group and session follow the name, which may hold anything.
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if state != "Z":
                yield int(path.parent.name), int(session)

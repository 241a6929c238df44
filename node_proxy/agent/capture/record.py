"""What is remembered of this host's capture: who installed it, and what an unconfirmed one gives way to.

A file in the state directory, replaced whole, and a lock that ends with its holder.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from node_proxy.agent.files import private_directory, write_private

AGENT = "agent"


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What was put in force: `digest` names the plan's skeleton, `as_loaded` nft's listing of it."""

    digest: str
    by: str
    at: str
    as_loaded: str = ""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """An installation that waits to be confirmed.

    `deadline` is in seconds since the boot `boot_id`; `previous`, `previous_routes` and `previous_installed`
    are what comes back then.
    """

    name: str
    deadline: float
    boot_id: str
    previous: str
    previous_routes: tuple[str, ...]
    previous_installed: Installed | None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`rolled_back` names a skeleton that was not confirmed in time: the agent does not install it again."""

    installed: Installed | None = None
    trial: Trial | None = None
    rolled_back: str = ""


class RecordFile:
    """The record in `state_dir`."""

    def __init__(self, state_dir: Path) -> None:
        self.directory = state_dir
        self._path = state_dir / "capture.json"
        self._lock_path = state_dir / "capture.lock"

    def read(self) -> Record:
        """Read it; one that is missing or damaged says nothing."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Record)
        except (OSError, msgspec.MsgspecError):
            return Record()

    def write(self, record: Record) -> None:
        """Replace it.

        Raises:
            OSError: it cannot be written; the older one stands.
        """
        private_directory(self.directory)
        write_private(self._path, msgspec.json.encode(record))

    def remove(self) -> None:
        """Forget everything."""
        self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process that changes the capture out of the block."""
        private_directory(self.directory)
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def since_boot() -> float:
    """Give the seconds since this boot; nobody sets this clock, and it goes on while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Name this boot; what the kernel held before it is gone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

"""Host: where programs run and have addresses, be it a network namespace or this machine's loopback."""

import contextlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# include/uapi/linux/capability.h
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21
NETNS_FILES = Path("/etc/netns")


class CommandFailed(AssertionError):
    """A command ended with an error; the message has what it said."""


@dataclass(frozen=True)
class Answer:
    """What an HTTP request came to; `status` 0 means that there was no answer and `text` says why."""

    status: int
    text: str


@dataclass(frozen=True)
class Host:
    """`prefix` puts a command onto this host; `namespace` is empty on the machine itself."""

    name: str
    address: str
    address6: str = ""
    namespace: str = ""

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to write before a command so that it runs on this host."""
        return ("ip", "netns", "exec", self.namespace) if self.namespace else ()

    def run(
        self, *command: str, timeout: float = 30.0, text: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end on this host, with `text` as its input.

        Raises:
            CommandFailed: it ended with an error and `check` is set.
        """
        done = subprocess.run(
            [*self.prefix, *command], capture_output=True, text=True, input=text, timeout=timeout, check=False
        )
        if check and done.returncode:
            said = (done.stderr + done.stdout).strip()
            raise CommandFailed(f"{' '.join(command)}: exit status {done.returncode} on {self.name}: {said}")
        return done

    def get(self, url: str, *options: str, timeout: float = 5.0) -> Answer:
        """Fetch `url` with curl, from this host."""
        done = self.run(
            "curl", *options, "--silent", "--show-error", "--noproxy", "*", "--max-time", f"{timeout:g}",
            "--write-out", r"\n%{http_code}", url, timeout=timeout + 5, check=False,
        )  # fmt: skip
        text, _, code = done.stdout.rpartition("\n")
        status = int(code) if code.isdigit() else 0
        return Answer(status, text if status else done.stderr.strip())

    def map_names(self, names: dict[str, tuple[str, ...]]) -> None:
        """Make `names` resolve to their addresses on this host, through its own hosts file."""
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        lines += [f"{address} {name}" for name, addresses in names.items() for address in addresses]
        # Written in place: running programs see this very file through a bind mount.
        with (netns_folder(self.namespace) / "hosts").open("w") as file:
            file.write("\n".join(lines) + "\n")


def netns_folder(namespace: str) -> Path:
    """Where `ip netns exec` takes a namespace's own files for /etc from."""
    return NETNS_FILES / namespace


def find_tool(name: str) -> str:
    """Find a program: on PATH, in sbin, or beside this interpreter as wheels bring them.

    Raises:
        FileNotFoundError: it is nowhere.
    """
    beside = Path(sys.executable).parent
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", str(beside)])
    if found := shutil.which(name, path=path):
        return found
    raise FileNotFoundError(f"{name} is neither on PATH nor in {beside}")


def can_make_namespaces() -> bool:
    """Whether this process may make network namespaces and has the tools to fill them."""
    if os.geteuid() != 0 or not _effective_capabilities() >= {_CAP_NET_ADMIN, _CAP_SYS_ADMIN}:
        return False
    with contextlib.suppress(FileNotFoundError):
        return bool(find_tool("ip") and find_tool("nft"))
    return False


def _effective_capabilities() -> set[int]:
    status = Path("/proc/self/status").read_text()
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return {bit for bit in range(64) if mask >> bit & 1}

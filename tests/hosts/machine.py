"""Machine: a host whose first process is systemd, booted by systemd-nspawn over this machine's own files.

What it writes goes to an overlay in a folder of its own, so that it can be shut down and booted again. What
this machine has enabled is hidden from it, and root's home: it runs what a bare system does, and serves ssh.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.hosts import CommandFailed, Host, find_tool
from tests.support.processes import Process, Processes, wait_until

# systemd wants a cgroup of its own, and cgroup2 where it looks for it. systemd-nspawn leaves folders behind.
# $1 is the cgroup, $2 the folder.
_BOOT = """
echo $$ > "$1/cgroup.procs"
exec unshare --mount --propagation private sh -ec '
    mount -t cgroup2 none /sys/fs/cgroup
    mkdir -p /run/systemd/nspawn
    mount -t tmpfs none /run/systemd/nspawn
    mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
    shift
    exec "$@"
' sh "$2" systemd-nspawn --directory="$2/root" "${@:3}"
"""
# Dropbear, because Debian's OpenSSH would start serving this very machine when it is installed for the tests.
_SSH_SOCKET = """[Socket]
ListenStream=22
Accept=yes
[Install]
WantedBy=sockets.target
"""
_SSH_SERVICE = """[Service]
ExecStart=-/usr/sbin/dropbear -i -s -m -r /etc/lab-ssh/host_key
StandardInput=socket
"""
_UNITS = Path("etc/systemd/system")
_CGROUPS = "nodemesh-tests"


class Machine:
    """A host of the fabric with an operating system; whoever boots it shuts it down, also when booting fails.

    Args:
        host: its address and network namespace.
        folder: where its overlay is kept; the caller removes it.
        processes: starts it.
        public_key: who may log in as root.
        mounts: folders of this machine it sees read-only, by where it sees them.
    """

    def __init__(
        self, host: Host, *, folder: Path, processes: Processes, public_key: str, mounts: Mapping[str, Path]
    ) -> None:
        self.host = host
        self._folder = folder
        self._processes = processes
        self._mounts = mounts
        self._cgroup = cgroup2() / _CGROUPS / host.namespace
        self._process: Process | None = None
        self._write_files(public_key)

    def boot(self) -> None:
        """Start it; it ends when the calling thread does."""
        self._cgroup.mkdir(parents=True, exist_ok=True)
        for other in self._cgroup.parent.glob("nmesh-*"):
            if not Path("/run/netns", other.name).exists():
                # The run that made it was killed, and its namespaces have been swept up.
                _remove_cgroups(other)
        mounts = [f"--bind-ro={path}:{seen}" for seen, path in self._mounts.items()]
        self._process = self._processes.start(
            f"machine-{self.host.name}",
            [
                "bash", "-ec", _BOOT, "bash", str(self._cgroup), str(self._folder), *mounts,
                f"--machine={self.host.namespace}", f"--hostname={self.host.name}", "--register=no",
                "--keep-unit", f"--network-namespace-path=/run/netns/{self.host.namespace}",
                "--capability=all", "--console=read-only", "--link-journal=no", "--resolv-conf=off",
                "--timezone=off", "--boot",
            ],
            environment={"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"},
        )  # fmt: skip

    def wait_up(self) -> None:
        """Wait until all its units are up."""
        assert self._process is not None, f"{self.host.name} was not booted"
        self._process.wait_ready(self._is_up, what="all units to be up", deadline=60, pause=0.2)

    def shut_down(self) -> None:
        """Let it stop its units and power off; kill what is left after some seconds."""
        if self._process is not None:
            self._process.stop(grace=30)
            self._process = None
        wait_until(
            lambda: _remove_cgroups(self._cgroup), what=f"{self._cgroup} to be empty", deadline=10, pause=0.1
        )
        with contextlib.suppress(OSError):
            self._cgroup.parent.rmdir()

    def run(
        self, *command: str, text: str | None = None, check: bool = True, timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on it, as root, with `text` as its input.

        Raises:
            CommandFailed: it ended with an error and `check` is set.
        """
        done = subprocess.run(
            ["nsenter", f"--target={self._init()}", "--all", "--", *command],
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            said = (done.stderr + done.stdout).strip()
            raise CommandFailed(f"{' '.join(command)}: exit {done.returncode} on {self.host.name}: {said}")
        return done

    def unit(self, name: str, *properties: str) -> dict[str, str]:
        """Give properties of a unit as systemd tells them."""
        told = self.run("systemctl", "show", name, f"--property={','.join(properties)}").stdout
        return dict(line.split("=", 1) for line in told.splitlines())

    def journal(self, unit: str) -> str:
        """The last lines of a unit's log."""
        return self.run("journalctl", "--unit", unit, "--lines=40", "--no-pager", "--output=cat").stdout

    def records(self, unit: str) -> list[dict[str, Any]]:
        """The lines of a unit's log that are JSON objects."""
        lines = self.run("journalctl", "--unit", unit, "--no-pager", "--output=cat").stdout.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def _init(self) -> int:
        """The process id, here, of its first process."""
        assert self._process is not None, f"{self.host.name} is not running"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def _is_up(self) -> bool:
        if not self._init():
            return False
        # Degraded: a unit of this machine's own distribution fails in a container. It is not ours to judge.
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def _write_files(self, public_key: str) -> None:
        upper = self._folder / "upper"
        for folder in (upper, self._folder / "work", self._folder / "root"):
            folder.mkdir(parents=True)
        units = upper / _UNITS
        (units / "sockets.target.wants").mkdir(parents=True)
        (units / "lab-ssh.socket").write_text(_SSH_SOCKET)
        (units / "lab-ssh@.service").write_text(_SSH_SERVICE)
        (units / "sockets.target.wants/lab-ssh.socket").symlink_to("../lab-ssh.socket")
        (upper / "etc/lab-ssh").mkdir()
        _run("dropbearkey", "-t", "ed25519", "-f", str(upper / "etc/lab-ssh/host_key"))
        login = upper / "root/.ssh"
        login.mkdir(parents=True, mode=0o700)
        (login / "authorized_keys").write_text(public_key)
        for folder in (units, upper / "root"):
            # overlayfs: nothing of the lower folder shows through.
            os.setxattr(folder, "trusted.overlay.opaque", b"y")
        (upper / "etc/hostname").write_text(f"{self.host.name}\n")
        # It has no way to a package server: this machine's lists are the newest there are.
        apt = upper / "var/lib/apt/periodic"
        apt.mkdir(parents=True)
        (apt / "update-success-stamp").touch()


def make_key(path: Path) -> str:
    """Make an ssh key at `path`; give its public half."""
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))
    return path.with_name(f"{path.name}.pub").read_text()


def require_tools() -> None:
    """Look for everything that booting machines and logging in takes.

    Raises:
        FileNotFoundError: something is not there.
    """
    for tool in ("systemd-nspawn", "dropbear", "dropbearkey", "ssh", "ssh-keygen", "nsenter", "unshare"):
        find_tool(tool)


def cgroup2() -> Path:
    """Say where cgroup2 is mounted; beside the older hierarchies it has a folder of its own."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise FileNotFoundError("cgroup2 is not mounted")


def _remove_cgroups(top: Path) -> bool:
    """Remove the cgroups at and below `top` that hold no process; whether all did."""
    for folder, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    return not top.exists()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)

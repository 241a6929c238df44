"""Rollout: runs the playbook against machines over ssh, from the switch of their fabric."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.hosts import Host, find_tool
from tests.support.processes import REPOSITORY

_FOLDER = REPOSITORY / "ansible"
_RECAP = re.compile(r"^(?P<host>\S+) +: +(?P<counts>(?:\w+=\d+ *)+)$", re.MULTILINE)
_TIMEOUT = 200.0

Variables = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a run came to: how many tasks of each host ended how, and everything that was printed."""

    counts: dict[str, dict[str, int]]
    output: str

    @property
    def failed(self) -> list[str]:
        """The hosts where it did not succeed."""
        return [name for name, count in self.counts.items() if count["failed"] or count["unreachable"]]

    @property
    def changed(self) -> int:
        """How many tasks changed something."""
        return sum(count["changed"] for count in self.counts.values())


class Rollout:
    """An inventory, and runs of site.yml over it.

    Args:
        control: where ansible runs.
        folder: where its own files go.
        key: the private key it logs in with.
    """

    def __init__(self, control: Host, *, folder: Path, key: Path) -> None:
        self._control = control
        self._folder = folder
        self.key = key
        self._common: Variables = {
            "ansible_user": "root",
            "ansible_become": False,
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_private_key_file": str(key),
            # The machines have no sftp server.
            "ansible_ssh_transfer_method": "piped",
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        }
        self._groups: dict[str, dict[str, Variables]] = {}
        folder.mkdir()

    def set(self, **variables: Any) -> None:
        """Set variables for every host."""
        self._common |= variables

    def put(self, group: str, host: Host, **variables: Any) -> None:
        """Put a host into a group, with these variables."""
        self._groups.setdefault(group, {})[host.name] = {"ansible_host": host.address, **variables}

    @contextlib.contextmanager
    def changed(self, group: str, host: Host, **variables: Any) -> Iterator[None]:
        """Change variables of a host for the runs within the block."""
        hosts = self._groups[group]
        before = hosts[host.name]
        hosts[host.name] = before | variables
        try:
            yield
        finally:
            hosts[host.name] = before

    def run(self, *, tags: str = "all") -> Outcome:
        """Run the playbook to its end; what became of it is for the caller to judge."""
        inventory = self._folder / "inventory.json"
        inventory.write_text(json.dumps(self._inventory()))
        environment = {
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_HOME": str(self._folder),
            "ANSIBLE_CONFIG": str(_FOLDER / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        }
        done = self._control.run(
            "env", *(f"{name}={value}" for name, value in environment.items()),
            find_tool("ansible-playbook"),
            f"--inventory={inventory}", f"--tags={tags}", "--extra-vars=nodemesh_serial=100%",
            str(_FOLDER / "site.yml"),
            timeout=_TIMEOUT, check=False,
        )  # fmt: skip
        recap = done.stdout.partition("PLAY RECAP")[2]
        counts = {match["host"]: _counts(match["counts"]) for match in _RECAP.finditer(recap)}
        output = done.stdout + done.stderr
        assert counts, f"the playbook did not run:\n{output}"
        return Outcome(counts, output)

    def _inventory(self) -> Mapping[str, Any]:
        groups = {name: {"hosts": hosts} for name, hosts in self._groups.items()}
        return {"all": {"vars": self._common, "children": groups}}


def _counts(text: str) -> dict[str, int]:
    return {name: int(number) for name, number in (part.split("=") for part in text.split())}

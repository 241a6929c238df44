from pathlib import Path

import pytest

from tests.hosts.machine import Machine, cgroup2, make_key, require_tools
from tests.support.namespaces import Fabric
from tests.support.privilege import require_root
from tests.support.processes import Processes

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


def traces(folder: Path, namespace: str) -> list[str]:
    """Mounts, cgroups and what systemd-nspawn keeps, as far as they are this machine's."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    kept = [*cgroup2().rglob("*"), *Path("/run/systemd").rglob("*")]
    return [each for each in (*mounts, *map(str, kept)) if str(folder) in each or namespace in each]


def test_a_machine_leaves_nothing_behind(tmp_path: Path) -> None:
    """A machine runs systemd over this one's files, keeps to itself what it writes, and leaves no trace."""
    require_root()
    require_tools()
    with Fabric(["lonely"]) as fabric, Processes(tmp_path) as processes:
        host = fabric.hosts["lonely"]
        machine = Machine(
            host,
            folder=tmp_path / "machine",
            processes=processes,
            public_key=make_key(tmp_path / "key"),
            mounts={},
        )
        try:
            machine.boot()
            machine.wait_up()
            assert machine.run("cat", "/proc/1/comm").stdout == "systemd\n"
            machine.run("touch", "/etc/written")
            assert traces(tmp_path, host.namespace)
        finally:
            machine.shut_down()
        assert processes.survivors() == []
    assert not Path("/etc/written").exists()
    assert traces(tmp_path, host.namespace) == []

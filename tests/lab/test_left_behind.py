import os
import signal
import subprocess
import sys

import pytest

from tests.lab.topology import Lab, open_lab
from tests.support.hosts import NETNS_FILES
from tests.support.namespaces import Fabric, remaining, sweep
from tests.support.processes import REPOSITORY

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

HOLD_A_FABRIC = """
import time
from tests.support.namespaces import Fabric
with Fabric(["lonely"]) as fabric:
    print(fabric.switch.namespace, flush=True)
    time.sleep(60)
"""


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def tables(*prefix: str) -> str:
    return subprocess.run(
        [*prefix, "nft", "list", "tables"], capture_output=True, text=True, check=True
    ).stdout


def test_a_mesh_leaves_nothing_behind() -> None:
    """After a mesh there are no namespaces, no processes, no files and no nftables tables of it."""
    tables_before = tables()
    with open_lab() as lab:
        folder, processes = lab.mesh.folder, lab.mesh.processes
        assert len(processes.survivors()) > 10
        mine = remaining()
        stop_capturing(lab)
    assert not set(mine) & set(remaining())
    assert processes.survivors() == []
    assert not folder.exists()
    assert not [name for name in mine if (NETNS_FILES / name).exists()]
    assert tables() == tables_before


def stop_capturing(lab: Lab) -> None:
    """A proxy that is stopped takes its nftables table and its workers with it."""
    host = lab.caller.host
    assert "nodemesh" in tables(*host.prefix)
    workers = set(lab.caller.workers())
    assert workers <= set(lab.mesh.processes.survivors())
    lab.caller.running_proxy.stop()
    assert "nodemesh" not in tables(*host.prefix)
    assert not workers & set(lab.mesh.processes.survivors())


def test_a_killed_run_is_swept_up_by_the_next() -> None:
    """Namespaces whose maker was killed are removed; those in use are left alone."""
    with Fabric(["in-use"]) as mine:
        maker = subprocess.Popen(
            [sys.executable, "-c", HOLD_A_FABRIC], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        with maker:
            assert maker.stdout is not None
            left = maker.stdout.readline().strip()
            assert left in namespaces()
            os.kill(maker.pid, signal.SIGKILL)
        assert left in namespaces()
        sweep()
        assert left not in namespaces()
        assert mine.switch.namespace in namespaces()

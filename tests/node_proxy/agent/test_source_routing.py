import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from node_proxy.agent.reply_rules import reply_mark, reply_rules
from node_proxy.agent.source_routing import SourceRouting, families_of
from node_proxy.config import WorkloadConfig
from tests.node_proxy.agent.documents import node_config


def preserving(name: str, address: str, *, wish: bool = True) -> WorkloadConfig:
    """Give a workload at an address."""
    return WorkloadConfig(name=name, ports=(1,), address=address, preserve_source=wish)


def test_rules() -> None:
    """Only answers to connections of the proxy's own from foreign addresses are marked."""
    assert reply_rules(0x539) == [
        "type route hook output priority mangle; policy accept;",
        "meta mark 0x539 fib saddr type != local ct mark set 0x53a",
        "ct direction reply ct mark 0x53a meta mark set 0x53a",
    ]
    assert reply_mark(0x539) != 0x539


def test_families() -> None:
    """Only what workloads wish for is set up, and only in the families they listen in."""
    v4, v6 = preserving("a", "10.77.0.1"), preserving("b", "fd77::1")
    unwilling = preserving("c", "10.77.0.1", wish=False)
    assert families_of(node_config(unwilling)) == ()
    assert families_of(node_config(unwilling, v6)) == (6,)
    assert families_of(node_config(v6, v4, v4)) == (4, 6)


async def test_nothing_to_look_after() -> None:
    """Without a workload that wants it nothing is looked after."""
    await SourceRouting(0x539, ()).keep()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
def test_in_a_namespace() -> None:
    """Installed twice it is there once; what is lost is put back; removed, nothing is left, of ours alone."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.node_proxy.agent.source_routing_probe"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    complaint = seen.pop("complaint")
    assert seen == {
        "changed": [True, False],
        "marks": ["0x53a", "0x53a"],
        "mended": [True, ["0x53a", "0x53a"]],
        "other mark": [True, ["0x701", "0x701"]],
        "removed": True,
        "one family": 1,
        "no residue": True,
    }
    assert "it needs CAP_NET_ADMIN" in complaint

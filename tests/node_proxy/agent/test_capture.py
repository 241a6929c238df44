import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from node_proxy.agent.capture import plan
from node_proxy.errors import ConfigError

V4, V6 = "240.240.0.0/16", "fd6d:6573:6800::/64"


def test_ruleset() -> None:
    """The table is replaced in one transaction; only TCP to the virtual ranges is redirected, ours never."""
    wanted = plan(vip_ranges=[V4, V6], port=15001, mark=0x539, exempt_ports=[22, 2379, 22])
    assert wanted.ruleset == (
        "add table inet nodemesh\n"
        "delete table inet nodemesh\n"
        "table inet nodemesh {\n"
        "  chain output {\n"
        "    type nat hook output priority -100; policy accept;\n"
        "    meta mark 0x539 accept\n"
        "    ip daddr 127.0.0.0/8 accept\n"
        "    ip6 daddr ::1 accept\n"
        "    tcp dport { 22, 2379 } accept\n"
        "    ip daddr 240.240.0.0/16 meta l4proto tcp redirect to :15001\n"
        "    ip6 daddr fd6d:6573:6800::/64 meta l4proto tcp redirect to :15001\n"
        "  }\n"
        "}\n"
    )
    assert [str(network) for network in wanted.routes] == [V4, V6]


@pytest.mark.parametrize(
    ("ranges", "complaint"),
    [
        (["0.0.0.0/0"], "too wide"),
        (["::/0"], "too wide"),
        (["240.240.0.1/16"], "has host bits set"),
        (["a; flush ruleset"], "write 240.240.0.0/16"),
        (["10.0.0.0/8"], "contains the real 10.77.0.1"),
    ],
)
def test_ranges_that_would_hurt(ranges: list[str], complaint: str) -> None:
    """A range that is none, takes in everything or a real address of the mesh is refused."""
    with pytest.raises(ConfigError, match=complaint):
        plan(vip_ranges=ranges, port=15001, mark=0x539, exempt_addresses=["10.77.0.1", "fd77::1"])


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
def test_in_a_namespace() -> None:
    """In a network of its own: applied, connections to virtual IPs arrive; removed, nothing is left."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.node_proxy.agent.capture_probe"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    # The lines before the last are the log.
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "before": ["unreachable", "unreachable"],
        "applied": ["240.240.0.7:80", "fd6d:6573:6800::7:80"],
        "elsewhere": "127.0.0.1 is left alone",
        "marked": "not captured",
        "moved": ["unreachable", "240.241.0.7:80"],
        "removed": ["unreachable", "unreachable"],
        "tables": "",
        "routes": "",
        "complaint": True,
    }

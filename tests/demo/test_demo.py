import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.support.hosts import find_tool
from tests.support.privilege import require_root
from tests.support.processes import REPOSITORY

# Set-up takes some seconds, the acts under a minute.
pytestmark = pytest.mark.timeout(180)

# Another user, who may read this checkout and its interpreter wherever they are, and nothing else.
AS_NOBODY = (
    "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=-all,+dac_read_search", "--bounding-set=-all,+dac_read_search", "--",
)  # fmt: skip


def play(prefix: Sequence[str] = ()) -> str:
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "tests.demo"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "KEEP": "", "COLUMNS": "150"},
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    return done.stdout


@pytest.mark.root
def test_the_demo_holds_what_it_claims_with_captured_traffic() -> None:
    """As root the demo runs on namespaces and every claim holds."""
    require_root()
    assert "nftables captures its calls" in play()


def test_the_demo_holds_what_it_claims_without_root() -> None:
    """Off root the demo runs on loopback addresses and every claim holds."""
    find_tool("curl")
    output = play(AS_NOBODY if os.geteuid() == 0 else ())
    assert "explicit listeners" in output

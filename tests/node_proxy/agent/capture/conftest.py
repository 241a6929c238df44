from collections.abc import Iterator
from pathlib import Path

import pytest

from node_proxy.agent.capture.apply import Kernel
from node_proxy.agent.capture.installing import Installer
from node_proxy.agent.capture.record import RecordFile
from tests.support.hosts import Host
from tests.support.namespaces import Fabric, within
from tests.support.privilege import require_root


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    """Two hosts, `app` and `other`, on one switch."""
    require_root()
    with Fabric(["app", "other"]) as made:
        yield made


@pytest.fixture
def app(fabric: Fabric) -> Iterator[Host]:
    """The host whose network this thread, and what it starts, is in for the test."""
    with within(fabric.hosts["app"]):
        yield fabric.hosts["app"]


@pytest.fixture
def installer(app: Host, tmp_path: Path) -> Installer:
    """Change the capture of that host."""
    return Installer(records=RecordFile(tmp_path / "state"), kernel=Kernel())

import socket
from pathlib import Path

import pytest

from node_proxy.agent.notify import notify_systemd


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a Type=notify unit the state arrives at systemd's socket."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify_systemd("READY=1")
        assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize("path", ["", "nonsense", "/nonexistent/socket"])
def test_nobody_to_tell(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere nothing happens."""
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    notify_systemd("READY=1")

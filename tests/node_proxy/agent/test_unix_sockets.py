import os
import socket
from pathlib import Path

import pytest

from node_proxy.agent.unix_sockets import UnixSocket, listen_unix, path_of
from node_proxy.errors import ConfigError


def listen(
    path: Path, *, mode: int = 0o660, owner: int | None = None, group: int | None = None
) -> UnixSocket:
    return listen_unix(path, mode=mode, owner=owner, group=group, place="listener[0].address")


def close(made: UnixSocket) -> None:
    made.sock.close()
    made.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_mode_and_owner(tmp_path: Path) -> None:
    """The file has the mode and the owner that are asked for, and is reached by its path."""
    path = tmp_path / "socks"
    made = listen(path, mode=0o620, owner=4242, group=4243)
    found = path.stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o620, 4242, 4243)
    assert path_of(made.sock) == str(path)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
    close(made)
    assert list(tmp_path.iterdir()) == []


def test_left_behind(tmp_path: Path) -> None:
    """A socket that nobody listens on any more, as after a crash, is replaced."""
    path = tmp_path / "socks"
    made = listen(path)
    made.sock.close()
    close(listen(path))
    assert not path.exists()


def test_in_use(tmp_path: Path) -> None:
    """A socket that somebody listens on is left alone."""
    path = tmp_path / "socks"
    made = listen(path)
    with pytest.raises(ConfigError, match=r"listener\[0\]\.address: somebody listens on"):
        listen(path)
    assert path.exists()
    close(made)


def test_no_socket(tmp_path: Path) -> None:
    """A file that is no socket is never removed."""
    path = tmp_path / "socks"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="is there and no socket"):
        listen(path)
    assert path.read_text() == "precious"


def test_successor(tmp_path: Path) -> None:
    """What a successor has put in the place of ours is not removed with ours."""
    path = tmp_path / "socks"
    made = listen(path)
    made.sock.close()
    successor = listen(path)
    made.remove()
    assert path.exists()
    close(successor)


def test_no_directory(tmp_path: Path) -> None:
    """Without its directory it cannot be made, and the operator is told what to do."""
    with pytest.raises(ConfigError, match="make the directory"):
        listen(tmp_path / "none" / "socks")

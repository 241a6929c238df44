"""Files with secrets are made closed, and refused when open."""

import stat
from pathlib import Path

import pytest

from registry.errors import ConfigError
from registry.private_files import make_key_file, read_key_file, read_passphrase, write_private


def test_make_key_file(tmp_path: Path) -> None:
    """A key file is made once, for its owner alone, and is the same ever after."""
    path = tmp_path / "state" / "kek"
    made = make_key_file(path)
    assert make_key_file(path) == read_key_file(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_keys_differ(tmp_path: Path) -> None:
    """No two meshes have one key."""
    assert make_key_file(tmp_path / "one") != make_key_file(tmp_path / "two")


def test_missing(tmp_path: Path) -> None:
    """A missing key is named with its place and with what makes it."""
    with pytest.raises(ConfigError, match=r"kek.*nodemesh-registry init"):
        read_key_file(tmp_path / "kek")


def test_open_to_others(tmp_path: Path) -> None:
    """A key that others may read is refused with the command that closes it."""
    path = tmp_path / "kek"
    make_key_file(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        read_key_file(path)


def test_passphrase(tmp_path: Path) -> None:
    """A passphrase is what is in the file, without the line's end."""
    path = tmp_path / "passphrase"
    write_private(path, "open sesame\n")
    assert read_passphrase(path).text == "open sesame"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_no_passphrase(tmp_path: Path, content: bytes) -> None:
    """An empty file, or one that is not text, holds no passphrase."""
    path = tmp_path / "passphrase"
    write_private(path, "")
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        read_passphrase(path)


def test_never_overwrites(tmp_path: Path) -> None:
    """What is there stays, be it a link to somewhere else."""
    target = tmp_path / "target"
    target.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(ConfigError, match="exists"):
        write_private(link, "new")
    assert target.read_text() == "precious"


def test_no_such_place() -> None:
    """A place that cannot be is named."""
    with pytest.raises(ConfigError, match="cannot be written"):
        write_private(Path("/proc/nodemesh/kek"), "")

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from node_proxy.agent.cache import Cache, Cached, seal, unseal
from node_proxy.agent.state import Record, Version

CACHED = Cached(
    revision=9,
    records=(
        Record("services/default/api", Version(b"good", 5), Version(b"bad", 6)),
        Record("authorizationpolicies/shop/p", None, Version(b"bad", 8)),
    ),
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "state")


def test_what_was_saved_is_loaded(cache: Cache, tmp_path: Path) -> None:
    """A cache gives back what it was given, also to another process."""
    cache.save(CACHED)
    assert cache.load() == CACHED
    assert Cache(tmp_path / "state").load() == CACHED


def test_no_cache(cache: Cache) -> None:
    """Without a cache there is nothing, and nothing to complain of."""
    with capture_logs() as logs:
        assert cache.load() is None
    assert logs == []


def test_files_are_private(cache: Cache, tmp_path: Path) -> None:
    """Cache and key are readable by their owner alone, and no other file is left."""
    cache.save(CACHED)
    cache.save(CACHED)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    assert modes == {"cache": 0o600, "cache.key": 0o600}


@pytest.mark.parametrize("position", [0, 20, 60, -1])
def test_any_changed_byte_is_refused(cache: Cache, tmp_path: Path, position: int) -> None:
    """A cache that was damaged or changed is refused with a line in the log."""
    cache.save(CACHED)
    path = tmp_path / "state" / "cache"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with capture_logs() as logs:
        assert cache.load() is None
    assert [line["event"] for line in logs] == ["cache refused"]


def test_truncated_cache_is_refused(cache: Cache, tmp_path: Path) -> None:
    """Half a cache is none."""
    cache.save(CACHED)
    path = tmp_path / "state" / "cache"
    path.write_bytes(path.read_bytes()[:-10])
    assert cache.load() is None


def test_cache_of_another_node_is_refused(cache: Cache, tmp_path: Path) -> None:
    """A file sealed with another key was not written here."""
    Cache(tmp_path / "other").save(CACHED)
    cache.save(CACHED)
    (tmp_path / "state" / "cache").write_bytes((tmp_path / "other" / "cache").read_bytes())
    assert cache.load() is None


def test_failed_write_keeps_the_old(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk refuses, the older cache stands and no part of the newer one is left."""
    cache.save(CACHED)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        cache.save(Cached(10, ()))
    monkeypatch.undo()
    assert cache.load() == CACHED
    assert len(list((tmp_path / "state").iterdir())) == 2


def test_seal_depends_on_the_key() -> None:
    """A seal is good for its key only."""
    data = seal(CACHED, b"k" * 32)
    assert unseal(data, b"k" * 32) == CACHED
    with pytest.raises(ValueError, match="seal is broken"):
        unseal(data, b"l" * 32)

"""The last good state on disk, so that a node starts and serves with etcd and registry both away.

The file is written whole or not at all and carries an HMAC under a key of this node's own: one that was
damaged or changed by hand is refused, as if it were not there.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

import msgspec
import structlog

from node_proxy.agent.files import private_directory, write_private
from node_proxy.agent.state import Record

# The last part is the version of what follows the MAC; another version is not read.
_HEADER = b"nodemesh-cache 1\n"
_KEY_BYTES = 32
_MAC_BYTES = hashlib.sha256().digest_size

log = structlog.get_logger("node_proxy.agent.cache")


class Cached(msgspec.Struct, frozen=True):
    """The state as of `revision`."""

    revision: int
    records: tuple[Record, ...]


def seal(cached: Cached, key: bytes) -> bytes:
    """Give the file's bytes."""
    body = msgspec.msgpack.encode(cached)
    return _HEADER + _mac(key, body) + body


def unseal(data: bytes, key: bytes) -> Cached:
    """Read the file's bytes.

    Raises:
        ValueError: damaged, changed, or of another version; the message says which.
    """
    if not data.startswith(_HEADER):
        raise ValueError("it is of another version or no cache at all")
    mac, body = data[len(_HEADER) :][:_MAC_BYTES], data[len(_HEADER) + _MAC_BYTES :]
    if not hmac.compare_digest(mac, _mac(key, body)):
        raise ValueError("its seal is broken: it is damaged or was changed")
    try:
        return msgspec.msgpack.decode(body, type=Cached)
    except msgspec.MsgspecError as error:
        raise ValueError(f"its content is malformed: {error}") from error


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, _HEADER + body, "sha256")


class Cache:
    """The file in `state_dir`. Its calls block on the disk."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir
        self._path = state_dir / "cache"
        self._key_path = state_dir / "cache.key"

    def load(self) -> Cached | None:
        """Read the cache; None, with a log line, when there is none that can be believed."""
        try:
            return unseal(self._path.read_bytes(), self._key())
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("cache unreadable", path=str(self._path), error=error.strerror)
        except ValueError as error:
            log.warning("cache refused", path=str(self._path), error=str(error))
        return None

    def save(self, cached: Cached) -> None:
        """Replace the cache.

        Raises:
            OSError: it cannot be written; the older one stands.
        """
        write_private(self._path, seal(cached, self._key()))

    def _key(self) -> bytes:
        """Give this node's key, made at first use."""
        try:
            key = self._key_path.read_bytes()
        except FileNotFoundError:
            key = b""
        if len(key) != _KEY_BYTES:
            private_directory(self._directory)
            key = secrets.token_bytes(_KEY_BYTES)
            write_private(self._key_path, key)
        return key

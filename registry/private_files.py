"""Files that hold secrets: made for their owner alone, refused when others may read them."""

import os
import secrets
from pathlib import Path

from registry.ca.sealing import KEY_FILE_BYTES, KeyFile, Passphrase
from registry.errors import ConfigError


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, where none is.

    Raises:
        ConfigError: it exists, or cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists; move it away first, or name another place") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def make_key_file(path: Path) -> KeyFile:
    """Make the key-encryption key at `path`, or take the one that was put there before.

    Raises:
        ConfigError: it cannot be written, or what is there is no such key.
    """
    if not path.exists():
        write_private(path, secrets.token_hex(KEY_FILE_BYTES) + "\n")
    return read_key_file(path)


def read_key_file(path: Path) -> KeyFile:
    """Read the key-encryption key.

    Raises:
        ConfigError: it is missing, too short, or others may read it.
    """
    return KeyFile(_read_secret(path, "key-encryption key, which `nodemesh-registry init` makes"))


def read_passphrase(path: Path) -> Passphrase:
    """Read a file that holds the passphrase of the signing key.

    Raises:
        ConfigError: it is missing, empty, not text, or others may read it.
    """
    try:
        return Passphrase(_read_secret(path, "passphrase of the signing key").decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error


def _read_secret(path: Path, what: str) -> bytes:
    try:
        mode = path.stat().st_mode
        content = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{path}, the {what}, cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigError(f"{path}, the {what}, is open to others; run: chmod 600 {path}")
    return content


def remove_file(path: Path) -> None:
    """Remove a file."""
    path.unlink()

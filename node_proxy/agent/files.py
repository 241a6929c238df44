"""Files the agent keeps for itself: private, and written whole or not at all."""

import os
import tempfile
from pathlib import Path

from node_proxy.errors import ConfigError


def private_directory(path: Path) -> Path:
    """Make `path` (mode 0700) if it is missing.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be made: {error.strerror}; correct state_dir or its owner"
        ) from error
    return path


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by `data` with mode 0600; after a crash the old content or the new stands, never a part.

    Raises:
        OSError: disk full, no permission; the old content stands.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    # Without it a power cut may bring the old name back.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

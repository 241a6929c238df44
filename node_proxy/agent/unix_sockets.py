"""Listening Unix sockets: made with their owner and mode from the first moment, and gone when we are."""

import errno
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from node_proxy.errors import ConfigError

# A burst of connects must fit while a worker is being replaced; the kernel caps it at somaxconn.
BACKLOG = 4096
# The name under which a socket is made; a file of that name is a leftover of ours.
_NEW = ".new"


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A listening socket and the file by which it is reached."""

    sock: socket.socket
    path: Path
    device: int
    inode: int

    def remove(self) -> None:
        """Remove the file, if it is still this one: a successor may have put its own in its place."""
        with suppress(OSError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                self.path.unlink()


def listen_unix(path: Path, *, mode: int, owner: int | None, group: int | None, place: str) -> UnixSocket:
    """Listen at `path`, in the place of what nobody listens at any more.

    Raises:
        ConfigError: it cannot be made, or something else is there; `place` names the field.
    """
    _check_free(path, place)
    new = path.with_name(path.name + _NEW)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            new.unlink()
        sock.bind(str(new))
        new.chmod(mode)
        if owner is not None or group is not None:
            os.chown(new, -1 if owner is None else owner, -1 if group is None else group)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        made = new.lstat()
        # At once what was there is gone and this is: nobody ever finds nothing, or a socket of another mode.
        new.rename(path)
    except OSError as error:
        sock.close()
        with suppress(OSError):
            new.unlink()
        raise ConfigError(
            f"{place}: cannot listen on {path}: {os.strerror(error.errno or 0)}; {_mend(path, error)}"
        ) from error
    return UnixSocket(sock, path, made.st_dev, made.st_ino)


def path_of(sock: socket.socket) -> str:
    """Give the path at which a socket of `listen_unix` is reached; it was made under another."""
    return str(sock.getsockname()).removesuffix(_NEW)


def _check_free(path: Path, place: str) -> None:
    try:
        found = path.lstat()
    except OSError:
        # It is not there; or making it will tell what is wrong.
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"{place}: {path} is there and no socket; remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
    raise ConfigError(f"{place}: somebody listens on {path}; stop them, or choose another path")


def _mend(path: Path, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return f"make the directory {path.parent}, or let RuntimeDirectory= of the unit make it"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"let the proxy write to {path.parent}; to give the socket away it needs CAP_CHOWN"
        case _:
            return "choose another path"

"""Who is at the other end of a Unix socket: the kernel noted it when the caller connected.

The user is certain. The process is known by its number, and a number is used again; so its cgroup is believed
only while a pidfd of the very process says that it lives.
"""

import os
import select
import socket
import struct
from pathlib import Path

from node_proxy.owners import Process

# struct ucred: pid, uid, gid; pid 0 is a process that our pid namespace does not show.
_CREDENTIALS = struct.Struct("=iII")
# asm-generic/socket.h, Linux 6.5; the socket module does not name it.
_SO_PEERPIDFD = 77
# Longer than any path in /proc/PID/cgroup: PATH_MAX and the prefix.
_LONGEST = 4608
_CGROUP2 = "0::"


def peer_process(accepted: socket.socket) -> Process:
    """Say who connected, as far as that is certain.

    Raises:
        OSError: the socket is none that has a peer.
    """
    raw = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _gid = _CREDENTIALS.unpack(raw)
    return Process(uid, _cgroup(accepted, pid) if pid > 0 else None)


def _cgroup(accepted: socket.socket, pid: int) -> str | None:
    try:
        pidfd = accepted.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        # An older kernel, or the process is gone: of its number nothing can be said.
        return None
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape")[:_LONGEST]
        # Read while that process lived, so it is not another's.
        return cgroup_of(text) if _lives(pidfd) else None
    except OSError:
        return None
    finally:
        os.close(pidfd)


def _lives(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)


def cgroup_of(text: str) -> str | None:
    """Read the cgroup2 path out of /proc/PID/cgroup; None when there is none, or it was removed."""
    for line in text.splitlines():
        if line.startswith(_CGROUP2):
            path = line.removeprefix(_CGROUP2)
            # cgroups(7): a path outside our cgroup namespace begins with /.., and tells us nothing.
            return None if path.startswith("/..") or path.endswith(" (deleted)") else path
    return None

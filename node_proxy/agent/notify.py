"""Tells systemd how the agent is, when systemd asked to be told (sd_notify(3))."""

import os
import socket
from contextlib import suppress


def notify_systemd(state: str) -> None:
    """Send ``READY=1``, ``STOPPING=1`` or the like; nothing happens outside a Type=notify unit."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    # An @ stands for the zero byte of an abstract address.
    address = f"\0{path[1:]}" if path.startswith("@") else path
    # A notification that cannot be sent must not stop the mesh.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode(), address)

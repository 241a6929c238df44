"""How a connection came to us: whether its caller waits for an answer before it speaks."""

import socket
from contextlib import suppress
from typing import Final, Protocol

import trio

from node_proxy.dataplane.handshake import Handshake, Refused
from node_proxy.dataplane.reason import Reason
from node_proxy.dataplane.socket_side import abort_socket

# What a caller that was refused may still send, and for how long, before it has read why.
LAST_WORDS = 1.0
MOST_IGNORED = 64 * 1024


class Way(Protocol):
    """Tells a caller what became of its connection."""

    def granted(self, sock: socket.socket) -> None:
        """Tell that payload may flow."""

    def refused(self, sock: socket.socket, why: Refused, reason: Reason) -> None:
        """Tell that nothing will, and close: the socket is the way's from now on."""


class Plain:
    """A caller that believes to have connected to the service itself: only a reset can tell it anything."""

    def granted(self, _sock: socket.socket) -> None:
        """Say nothing."""

    def refused(self, sock: socket.socket, _why: Refused, _reason: Reason) -> None:
        """Reset the connection."""
        abort_socket(sock)


PLAIN: Final = Plain()


class Answered:
    """A caller that has asked by a handshake and waits for its answer."""

    def __init__(self, nursery: trio.Nursery, handshake: Handshake) -> None:
        self._nursery = nursery
        self._handshake = handshake

    def granted(self, sock: socket.socket) -> None:
        """Send the answer; what is wrong with the socket shows when it is next read."""
        with suppress(OSError):
            sock.send(self._handshake.granted())

    def refused(self, sock: socket.socket, why: Refused, reason: Reason) -> None:
        """Send the answer, and close once the caller had time to read it."""
        self._nursery.start_soon(say_last, sock, self._handshake.refused(why, reason))


async def say_last(sock: socket.socket, words: bytes) -> None:
    """Send `words` and close, in `LAST_WORDS` at most; cancellation closes at once."""
    try:
        with suppress(OSError), trio.move_on_after(LAST_WORDS):
            sock.send(words)
            # Closing over what the caller has sent would be a reset, which may overtake what was just said.
            sock.shutdown(socket.SHUT_WR)
            ignored = 0
            while ignored < MOST_IGNORED:
                await trio.lowlevel.wait_readable(sock)
                if not (data := sock.recv(MOST_IGNORED)):
                    break
                ignored += len(data)
    finally:
        sock.close()

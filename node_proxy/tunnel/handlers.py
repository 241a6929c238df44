"""Who calls whom around a tunnel: the poller calls handlers of sockets, a tunnel calls handlers of streams.

Everything here is called inline from the reactor's loop and must not block.
"""

from typing import Protocol

# What `StreamHandler.on_reset` hears when the whole tunnel is gone; no HTTP/2 error code is negative.
TUNNEL_CLOSED = -1


class PollHandler(Protocol):
    """What a poller calls when a descriptor is ready."""

    def on_ready(self, events: int) -> None:
        """Handle epoll's `events`; must not block."""

    def on_crash(self, error: Exception) -> None:
        """Give up: `on_ready` raised `error`, which is a bug."""


class TurnEndHandler(Protocol):
    """What wants to be called once more when everything that is ready now has been handled."""

    def on_turn_end(self) -> None:
        """Do what was put off; must not block."""

    def on_crash(self, error: Exception) -> None:
        """Give up: `on_turn_end` raised `error`, which is a bug."""


class Poller(Protocol):
    """Readiness of descriptors; the reactor of the data plane, or a test's by hand."""

    def register(self, fd: int, events: int, handler: PollHandler) -> None:
        """Watch `fd`."""

    def modify(self, fd: int, events: int) -> None:
        """Change what is watched for."""

    def unregister(self, fd: int) -> None:
        """Stop watching; no call comes after this."""

    def at_turn_end(self, handler: TurnEndHandler) -> None:
        """Call `handler` once, after the sockets that are ready now; at once when none are being handled."""


class StreamHandler(Protocol):
    """One stream's end at this proxy. Called inline by its tunnel; must not block."""

    def on_accepted(self) -> None:
        """The peer has connected: payload may flow."""

    def on_refused(self, status: int, reason: str) -> None:
        """The peer will not connect; the stream is gone."""

    def on_data(self, data: memoryview) -> None:
        """Take payload; copy what is kept. Say `delivered` when the reader took it."""

    def on_ended(self) -> None:
        """The peer will send no more."""

    def on_reset(self, code: int) -> None:
        """The stream is gone: reset by the peer, or (TUNNEL_CLOSED) its tunnel ended.

        REFUSED_STREAM says that the peer did nothing with it: another try elsewhere is safe.
        """

    def on_writable(self) -> None:
        """Sending may go on after `sendable` was 0 or the tunnel was congested."""

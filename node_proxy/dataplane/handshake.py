"""What the protocols have in common by which a caller says where it wants to go, and hears the answer. Pure.

`receive` takes bytes and says how many of them belong to the handshake: what follows is the caller's payload,
which stays unread until the far side has accepted.
"""

import enum
from typing import Protocol

from node_proxy.dataplane.destination import Destination
from node_proxy.dataplane.reason import Reason


class Refused(enum.Enum):
    """Why a caller does not get what it asked for."""

    DENIED = "denied"
    UNKNOWN = "unknown"
    UNREACHABLE = "unreachable"
    LATE = "late"
    FAILED = "failed"


class Handshake(Protocol):
    """One caller's handshake; an object is used up by it.

    `destination` is set once it is known. `broken` says what was wrong with what the caller sent: send the
    output and close.
    """

    destination: Destination | None
    broken: str

    def receive(self, data: bytes) -> int:
        """Take bytes; gives how many of them belong to the handshake, all but the last time."""

    def take_output(self) -> bytes:
        """Give, once, what is to be sent now."""

    def granted(self) -> bytes:
        """Give the answer after which payload flows."""

    def refused(self, why: Refused, reason: Reason) -> bytes:
        """Give the answer before the connection is closed."""

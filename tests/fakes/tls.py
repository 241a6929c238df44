"""A TLS socket in memory with the manners of Python's: what blocks raises, and must be repeated as it was."""

import ssl
from typing import cast

# Descriptors that no test has open.
FIRST_FD = 100_000


class MemoryTls:
    """One end of an established TLS connection, without TLS, sockets or a peer.

    Args:
        room: how many bytes of output fit before sending blocks; None for no limit.
        record: how many bytes one read gives at most, as records bound it; what is left of the first
            delivery of a read counts as `pending`.
    """

    def __init__(self, *, fd: int = FIRST_FD, room: int | None = None, record: int = 16_384) -> None:
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.room = room
        self.record = record
        self.closed = False
        self.reads = 0
        self.at_end: OSError | bytes | None = None
        self.send_error: OSError | None = None
        self._fd = fd
        self._decrypted = 0
        self._begun: bytes | None = None

    def as_socket(self) -> ssl.SSLSocket:
        """Give it where an SSLSocket is wanted."""
        return cast("ssl.SSLSocket", self)

    def fileno(self) -> int:
        """Give a number for the poller."""
        return self._fd

    def pending(self) -> int:
        """Say how many bytes are decrypted already, which epoll does not see."""
        return min(self._decrypted, len(self.incoming))

    def recv(self, amount: int) -> bytes:
        """Read at most `amount` bytes; raises as `recv_into`."""
        buffer = bytearray(amount)
        return bytes(buffer[: self.recv_into(memoryview(buffer))])

    def recv_into(self, view: memoryview) -> int:
        """Read at most one record.

        Raises:
            ssl.SSLWantReadError: nothing is there.
        """
        assert not self.closed
        if not self.incoming:
            match self.at_end:
                case None:
                    raise ssl.SSLWantReadError
                case OSError() as error:
                    raise error
                case _:
                    return 0
        self.reads += 1
        available = self.pending() or min(self.record, len(self.incoming))
        count = min(len(view), available)
        view[:count] = self.incoming[:count]
        del self.incoming[:count]
        self._decrypted = available - count
        return count

    def send(self, data: memoryview) -> int:
        """Send all of `data`, or nothing when there is no room for all of it, as OpenSSL does.

        Raises:
            ssl.SSLWantWriteError: there is no room; the same bytes must be given again.
        """
        assert not self.closed
        if self.send_error is not None:
            raise self.send_error
        if self._begun is not None and bytes(data[: len(self._begun)]) != self._begun:
            raise ssl.SSLError("bad length")
        if self.room is not None and len(data) > self.room:
            self._begun = bytes(data)
            raise ssl.SSLWantWriteError
        self._begun = None
        if self.room is not None:
            self.room -= len(data)
        self.outgoing += data
        return len(data)

    def close(self) -> None:
        """Close."""
        self.closed = True

    def take(self) -> bytes:
        """Give, once, what was sent."""
        sent = bytes(self.outgoing)
        self.outgoing.clear()
        return sent

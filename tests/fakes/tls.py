"""A TLS stream in memory, without TLS: records are what was sent, in pieces of one size."""

import ssl
from typing import cast

from node_proxy.tunnel.tls_stream import TlsStream

# Descriptors that no test has open.
FIRST_FD = 100_000


class MemoryTls:
    """One end of an established TLS connection, without TLS, sockets or a peer.

    Args:
        room: how many bytes of output fit before the socket is full; None for no limit.
        record: how many bytes one decryption gives at most, as records bound it.
    """

    def __init__(self, *, fd: int = FIRST_FD, room: int | None = None, record: int = 16_384) -> None:
        self.incoming = bytearray()
        self.received = bytearray()
        self.outgoing = bytearray()
        self.own_output = b""
        self.room = room
        self.record = record
        self.closed = False
        self.reads = 0
        # What the socket says when nothing is left: nothing there, the end, or an error.
        self.at_end: OSError | bytes | None = None
        # What TLS says once everything received is decrypted: an alert, or close_notify.
        self.alert: ssl.SSLError | bytes | None = None
        self.send_error: OSError | None = None
        self._fd = fd

    def as_stream(self) -> TlsStream:
        """Give it where a TlsStream is wanted."""
        return cast("TlsStream", self)

    def fileno(self) -> int:
        """Give a number for the poller."""
        return self._fd

    def receive(self, scratch: memoryview) -> int:
        """Read the socket once.

        Raises:
            BlockingIOError: nothing is there.
        """
        assert not self.closed
        if not self.incoming:
            match self.at_end:
                case None:
                    raise BlockingIOError
                case OSError() as error:
                    raise error
                case _:
                    return 0
        self.reads += 1
        count = min(len(scratch), len(self.incoming))
        # As the real one does: a scratch that is in use elsewhere shows.
        scratch[:count] = self.incoming[:count]
        self.received += scratch[:count]
        del self.incoming[:count]
        return count

    @property
    def pending(self) -> int:
        """How many bytes are received and not decrypted; an alert has some too."""
        return len(self.received) + (self.alert is not None)

    def read_into(self, view: memoryview) -> int:
        """Decrypt one record at most.

        Raises:
            ssl.SSLWantReadError: nothing is there.
        """
        assert not self.closed
        if not self.received:
            match self.alert:
                case None:
                    raise ssl.SSLWantReadError
                case ssl.SSLError() as error:
                    raise error
                case _:
                    return 0
        count = min(len(view), self.record, len(self.received))
        view[:count] = self.received[:count]
        del self.received[:count]
        return count

    def encrypt(self, data: memoryview) -> bytes:
        """Give `data` behind what TLS itself has to say."""
        return self.take_output() + bytes(data)

    def take_output(self) -> bytes:
        """Give, once, what TLS itself has to say."""
        output, self.own_output = self.own_output, b""
        return output

    def send(self, records: bytes | memoryview) -> int:
        """Take what there is room for."""
        assert not self.closed
        if self.send_error is not None:
            raise self.send_error
        count = len(records) if self.room is None else min(len(records), self.room)
        if self.room is not None:
            self.room -= count
        self.outgoing += records[:count]
        return count

    def close(self) -> None:
        """Close."""
        self.closed = True

    def take(self) -> bytes:
        """Give, once, what was sent."""
        sent = bytes(self.outgoing)
        self.outgoing.clear()
        return sent

"""Bytes that came and were not received yet. Pure."""

# What one `take` gives at most: enough that a body moves in large steps, and that nobody else waits long.
TAKE = 64 * 1024


class Inbox:
    """A queue of bytes. What comes in one piece leaves as that piece; what comes in many is put together."""

    __slots__ = ("_first", "_rest", "size")

    def __init__(self) -> None:
        self._first = b""
        # Behind `_first`. Not a queue of pieces: somebody who sends single bytes would make each cost fifty.
        self._rest = bytearray()
        self.size = 0

    def put(self, data: bytes) -> None:
        """Add bytes at the end."""
        if self.size:
            self._rest += data
        else:
            self._first = data
        self.size += len(data)

    def take(self) -> bytes:
        """Give the next bytes; empty when there are none."""
        if self._first:
            data, self._first = self._first, b""
        elif len(self._rest) <= TAKE:
            data = bytes(self._rest)
            self._rest.clear()
        else:
            data = bytes(self._rest[:TAKE])
            del self._rest[:TAKE]
        self.size -= len(data)
        return data

    def clear(self) -> None:
        """Forget everything."""
        self._first = b""
        self._rest.clear()
        self.size = 0

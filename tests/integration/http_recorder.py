"""A workload that keeps every whole request it gets, and a caller that sends bytes as they are."""

import re
import socket
from dataclasses import dataclass, field

from tests.integration.workloads import CHUNK

_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ")


@dataclass(frozen=True)
class Got:
    """A request, whole, as it reached the workload; `connection` numbers those it came over."""

    connection: int
    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]]

    def all(self, name: bytes) -> list[bytes]:
        """Give the values of a field."""
        return [value for each, value in self.fields if each == name]


class Malformed(AssertionError):
    """The workload was sent what is no HTTP: a proxy must not do that, whatever it was sent itself."""


class Recorder:
    """Answers every request with 200 and its number, and is not lenient; `broken` says what it disliked."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.broken: list[str] = []
        self._connections = 0

    def __call__(self, connection: socket.socket) -> None:
        """Serve one connection."""
        self._connections += 1
        number, reader = self._connections, _Reader(connection)
        try:
            while (request := reader.request(number)) is not None:
                self.got.append(request)
                text = b"%d" % len(self.got)
                content = b"" if request.method == b"HEAD" else text
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), content))
        except Malformed as error:
            self.broken.append(str(error))

    def take(self) -> list[Got]:
        """Give what has come since the last time."""
        taken, self.got = self.got, []
        return taken


@dataclass
class _Reader:
    connection: socket.socket
    pending: bytes = field(default=b"")

    def request(self, number: int) -> Got | None:
        """Read one; None when the connection ends before it is whole."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return None
        first, *lines = head.split(b"\r\n")
        method, target, version = first.split(b" ")
        if version != b"HTTP/1.1":
            raise Malformed(f"the request line is {first!r}")
        fields = _fields(lines)
        said = [value for name, value in fields if name == b"content-length"]
        coded = [value for name, value in fields if name == b"transfer-encoding"]
        if len([name for name, _ in fields if name == b"host"]) != 1 or len(said) + len(coded) > 1:
            raise Malformed(f"host or framing are not said once: {head!r}")
        trailers: list[tuple[bytes, bytes]] = []
        body: bytes | None = b""
        if said:
            body = self._exactly(int(said[0]))
        elif coded:
            if coded != [b"chunked"]:
                raise Malformed(f"the coding is {coded!r}")
            body, trailers = self._chunks()
        return None if body is None else Got(number, method, target, fields, body, trailers)

    def _chunks(self) -> tuple[bytes | None, list[tuple[bytes, bytes]]]:
        parts: list[bytes] = []
        while (line := self._until(b"\r\n")) is not None:
            if not re.fullmatch(rb"[0-9a-f]+", line):
                raise Malformed(f"a chunk begins with {line!r}")
            if not int(line, 16):
                trailers = []
                while each := self._until(b"\r\n"):
                    trailers += _fields([each])
                return (None, []) if each is None else (b"".join(parts), trailers)
            part = self._exactly(int(line, 16) + 2)
            if part is None:
                return None, []
            if not part.endswith(b"\r\n"):
                raise Malformed("a chunk does not end where it should")
            parts.append(part[:-2])
        return None, []

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self.pending:
            if not self._more():
                return None
        found, _, self.pending = self.pending.partition(mark)
        return found

    def _exactly(self, count: int) -> bytes | None:
        while len(self.pending) < count:
            if not self._more():
                return None
        found, self.pending = self.pending[:count], self.pending[count:]
        return found

    def _more(self) -> bool:
        data = self.connection.recv(CHUNK)
        self.pending += data
        return bool(data)


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    fields = []
    for line in lines:
        found = re.fullmatch(rb"([!#$%&'*+\-.^_`|~0-9a-z]+): ([^\x00-\x08\x0a-\x1f\x7f]*)", line)
        if found is None:
            raise Malformed(f"a field is {line!r}")
        fields.append((found[1], found[2]))
    return fields


def statuses(answer: bytes) -> list[int]:
    """Give the statuses of the answers in what a caller got, whose bodies hold nothing like a status line."""
    return [int(each) for each in _STATUS.findall(answer)]

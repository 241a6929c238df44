"""Plain HTTP services for the tests to carry requests to: too simple to be wrong, and quick enough.

Each answers with a JSON document of what it was asked, by which a test sees what the proxies made of it.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from typing import Any

from tests.integration.workloads import PATIENCE, Workload, run_workload


@dataclass(frozen=True)
class Asked:
    """A request as a workload got it."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body: bytes

    def field(self, name: str) -> str | None:
        """Give the first value of a field."""
        return next((value for each, value in self.fields if each == name), None)


Answering = Callable[[Asked], tuple[int, list[tuple[str, str]], bytes]]


def tell(name: str, asked: Asked) -> tuple[int, list[tuple[str, str]], bytes]:
    """Answer with who was asked, and what."""
    told = {
        "by": name,
        "method": asked.method,
        "target": asked.target,
        "fields": dict(asked.fields),
        "length": len(asked.body),
    }
    return 200, [("content-type", "application/json")], json.dumps(told).encode()


def serve(answer: Answering, connection: socket.socket) -> None:
    """Answer the requests of one connection, one after the other."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = connection.makefile("rb")
    while line := reader.readline():
        method, target, _ = line.decode("latin-1").split(" ", 2)
        fields = []
        while (each := reader.readline()) not in (b"\r\n", b""):
            name, _, value = each.decode("latin-1").partition(":")
            fields.append((name.lower(), value.strip()))
        body = _read_body(reader, dict(fields))
        status, said, content = answer(Asked(method, target, fields, body))
        head = "".join(f"{name}: {value}\r\n" for name, value in said)
        connection.sendall(
            f"HTTP/1.1 {status} OK\r\n{head}content-length: {len(content)}\r\n\r\n".encode()
            + (b"" if method == "HEAD" else content)
        )


def _read_body(reader: Any, fields: dict[str, str]) -> bytes:
    if "chunked" not in fields.get("transfer-encoding", ""):
        return bytes(reader.read(int(fields.get("content-length", 0))))
    parts = []
    while size := int(reader.readline().strip(), 16):
        parts.append(reader.read(size))
        reader.readline()
    while reader.readline() not in (b"\r\n", b""):
        pass
    return b"".join(parts)


@contextmanager
def run_http(name: str, answer: Answering | None = None) -> Iterator[Workload]:
    """Run a service that tells what it is asked, or answers otherwise."""
    with run_workload(partial(serve, answer or partial(tell, name))) as workload:
        yield workload


@dataclass(frozen=True)
class Answered:
    """An answer as a caller got it."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        """What the service was asked."""
        document: dict[str, Any] = json.loads(self.body)
        return document


class Client:
    """A caller with one connection that it keeps."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def ask(
        self, method: str, target: str, *, body: bytes | None = None, fields: dict[str, str] | None = None
    ) -> Answered:
        """Ask, and read the whole answer."""
        headers = {"host": "api", **(fields or {})}
        self._connection.request(method, target, body=body, headers=headers)
        response = self._connection.getresponse()
        named = {name.lower(): value for name, value in response.headers.items()}
        return Answered(response.status, named, response.read())

    def get(self, target: str = "/", **fields: str) -> Answered:
        """Ask for a target."""
        return self.ask("GET", target, fields={name.replace("_", "-"): each for name, each in fields.items()})

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def client(port: int) -> Iterator[Client]:
    """Give a caller."""
    made = Client(port)
    try:
        yield made
    finally:
        made.close()


class Load:
    """Callers that ask without a pause, each on a connection of its own; every answer is noted."""

    def __init__(self, port: int, *, callers: int, method: str = "GET", pause: float = 0.0) -> None:
        self.statuses: list[int] = []
        self.failures: list[str] = []
        self.by: list[str] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(port, method, pause), daemon=True)
            for _ in range(callers)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, port: int, method: str, pause: float) -> None:
        made = Client(port)
        while not self._stop.is_set():
            try:
                answered = made.ask(method, "/load")
            except (OSError, ValueError) as error:
                self.failures.append(repr(error))
                made.close()
                made = Client(port)
                continue
            self.statuses.append(answered.status)
            if answered.status == 200:
                self.by.append(answered.told["by"])
            time.sleep(pause)
        made.close()

    def wait(self, count: int) -> None:
        """Wait until so many more answers have come."""
        wanted, deadline = len(self.statuses) + count, time.monotonic() + PATIENCE
        while len(self.statuses) < wanted:
            assert time.monotonic() < deadline, f"{len(self.statuses)} answers of {wanted}"
            time.sleep(0.01)

    def stop(self) -> None:
        """Let everyone have its answer, and stop."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

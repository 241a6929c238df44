"""Asks at a steady rate whether answers come or not; one JSON line for each request when it is over.

``{"due": …, "sent": …, "ended": …, "method": "GET", "status": 200, "by": "api-1", "error": ""}``; times are
seconds of the monotonic clock, which all processes share. An open loop: who waits for an answer keeps nobody
else from asking, and what a request waited before it could be sent counts (`due`). Connections are kept, and
one is made when none is idle, up to a number that only an overload reaches. Told to end it waits for the
answers that are under way.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import trio

# Longer than any answer takes that is to come.
_PATIENCE = 15.0
_READ = 1 << 16
# Without a bound a machine that is late would be made later still, by a connection for each request.
_MOST_CONNECTIONS = 128
_FLUSHES = 0.02


class _Connection:
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Give status, fields and body of the answer."""
        await self.stream.send_all(request)
        while b"\r\n\r\n" not in self._buffer:
            await self._read()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(fields["content-length"])
        while len(self._buffer) < length:
            await self._read()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return int(status.split(" ", 2)[1]), fields, body

    async def _read(self) -> None:
        received = await self.stream.receive_some(_READ)
        if not received:
            raise EOFError("the connection ended")
        self._buffer += received


class _Load:
    def __init__(self, host: str, port: int, *, methods: Sequence[str], path: str) -> None:
        self._host, self._port = host, port
        self._methods = methods
        self._path = path
        self._idle: list[_Connection] = []
        self._room = trio.CapacityLimiter(_MOST_CONNECTIONS)

    async def run(self, rate: float) -> None:
        """Ask until cancelled, then wait for what is under way."""
        number, start = 0, time.monotonic()
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as asking:
                nursery.start_soon(_wait_told, asking)
                while True:
                    due = start + number / rate
                    await trio.sleep(max(0.0, due - time.monotonic()))
                    nursery.start_soon(self._ask, self._methods[number % len(self._methods)], due)
                    number += 1

    async def _ask(self, method: str, due: float) -> None:
        record: dict[str, Any] = {"due": due, "method": method, "status": 0, "by": "", "error": ""}
        async with self._room:
            await self._ask_now(method, record)
        record["ended"] = time.monotonic()
        print(json.dumps(record))

    async def _ask_now(self, method: str, record: dict[str, Any]) -> None:
        connection = self._idle.pop() if self._idle else None
        record["sent"] = time.monotonic()
        try:
            with trio.fail_after(_PATIENCE):
                if connection is None:
                    connection = _Connection(await trio.open_tcp_stream(self._host, self._port))
                length = "content-length: 2\r\n\r\n{}" if method == "POST" else "\r\n"
                request = f"{method} {self._path} HTTP/1.1\r\nhost: api\r\n{length}".encode()
                record["status"], fields, body = await connection.ask(request)
            record["reason"] = fields.get("nodemesh-reason", "")
            record["by"] = json.loads(body)["answered"][0] if record["status"] == 200 else ""
            if fields.get("connection") != "close":
                self._idle.append(connection)
                connection = None
        except (OSError, EOFError, trio.BrokenResourceError, trio.TooSlowError, ValueError) as error:
            record["error"] = f"{type(error).__name__}: {error}"
        if connection is not None:
            await trio.aclose_forcefully(connection.stream)


async def _wait_told(asking: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as told:
        async for _ in told:
            asking.cancel()
            return


async def _flush() -> None:
    while True:
        await trio.sleep(_FLUSHES)
        sys.stdout.flush()


async def _main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("host")
    arguments.add_argument("port", type=int)
    arguments.add_argument("--rate", type=float, required=True, help="requests a second")
    arguments.add_argument("--methods", default="GET", help="in turn, as in GET,POST")
    arguments.add_argument("--path", default="/load")
    given = arguments.parse_args()
    load = _Load(given.host, given.port, methods=given.methods.split(","), path=given.path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_flush)
        await load.run(given.rate)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main)

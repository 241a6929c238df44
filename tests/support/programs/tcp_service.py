"""A plain TCP service whose first line says what it is to do.

``name``: says its name. ``echo``: gives back what it gets. ``upload``: reads to the end, *then* answers with
count and digest (the caller half-closes). ``download N``: sends N bytes, half-closes, *then* reads what the
caller still has to say and prints it.
"""

import argparse
import functools
import hashlib
import json
import random
import sys
from collections.abc import Iterator

import trio

_BLOCK = 1 << 20
_COUNTER = 8
# More than the tests' thousand callers at once.
_BACKLOG = 2048


def pattern(size: int) -> Iterator[memoryview]:
    """Give `size` bytes of which no two blocks are alike, so that any loss or swap changes the digest."""
    block = bytearray(random.Random(0).randbytes(_BLOCK))  # noqa: S311 - a test pattern, not a secret
    number = 0
    while size > 0:
        block[:_COUNTER] = number.to_bytes(_COUNTER)
        yield memoryview(block)[: min(size, _BLOCK)]
        size -= _BLOCK
        number += 1


class Line:
    """Reads lines off a stream and keeps what follows them."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.rest = b""

    async def read(self) -> str:
        """Give the next line without its end; what there is at the end of the stream."""
        while b"\n" not in self.rest:
            data = await self._stream.receive_some()
            if not data:
                break
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode()


async def _serve(stream: trio.SocketStream, *, name: str) -> None:
    try:
        async with stream:
            await _obey(stream, name)
    except trio.BrokenResourceError as error:
        print(f"connection broken: {error.__cause__ or error}", flush=True)


async def _obey(stream: trio.SocketStream, name: str) -> None:
    lines = Line(stream)
    match (await lines.read()).split():
        case ["name"]:
            await stream.send_all(f"{name}\n".encode())
        case ["echo"]:
            await stream.send_all(lines.rest)
            async for data in stream:
                await stream.send_all(data)
        case ["upload"]:
            digest, count = hashlib.sha256(lines.rest), len(lines.rest)
            buffer = bytearray(_BLOCK)
            while size := await stream.socket.recv_into(buffer):
                digest.update(memoryview(buffer)[:size])
                count += size
            await stream.send_all(json.dumps({"bytes": count, "sha256": digest.hexdigest()}).encode() + b"\n")
        case ["download", size]:
            for block in pattern(int(size)):
                await stream.send_all(block)
            await stream.send_eof()
            print(f"heard after half-close: {await lines.read()}", flush=True)
        case other:
            print(f"not understood: {other}", flush=True)


async def _run(listen: str, port: int, name: str) -> None:
    listeners = await trio.open_tcp_listeners(port, host=listen, backlog=_BACKLOG)
    print("serving", flush=True)
    await trio.serve_listeners(functools.partial(_serve, name=name), listeners)


def main() -> int:
    """Serve until ended."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--listen", default="127.0.0.1")
    arguments.add_argument("--port", type=int, required=True)
    given = arguments.parse_args()
    trio.run(_run, given.listen, given.port, given.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Callers of `tests.support.programs.tcp_service`; each prints what it saw as JSON lines."""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Awaitable, Callable

import trio

from tests.support.programs.tcp_service import Line, pattern

# Dialling a thousand at once overflows accept queues anywhere; the thousand stay open together all the same.
_DIALLING = 64
_TICK = 0.05
_TIMEOUT = 90.0


async def ask_name(host: str, port: int, _: int) -> None:
    """Print who answers."""
    async with await trio.open_tcp_stream(host, port) as stream:
        await stream.send_all(b"name\n")
        _report(name=await Line(stream).read())


async def upload(host: str, port: int, size: int) -> None:
    """Send `size` bytes, half-close, and compare digests with what the service then says."""
    digest, began = hashlib.sha256(), time.monotonic()
    async with await trio.open_tcp_stream(host, port) as stream:
        await stream.send_all(b"upload\n")
        for block in pattern(size):
            digest.update(block)
            await stream.send_all(block)
        await stream.send_eof()
        answer = json.loads(await Line(stream).read())
    _report(
        matches=answer == {"bytes": size, "sha256": digest.hexdigest()},
        seconds=time.monotonic() - began,
        **answer,
    )


async def download(host: str, port: int, size: int) -> None:
    """Receive `size` bytes to the service's half-close, compare digests, then still say something."""
    expected, digest, count, began = hashlib.sha256(), hashlib.sha256(), 0, time.monotonic()
    async with await trio.open_tcp_stream(host, port) as stream:
        await stream.send_all(f"download {size}\n".encode())
        buffer = bytearray(1 << 20)
        while received := await stream.socket.recv_into(buffer):
            digest.update(memoryview(buffer)[:received])
            count += received
        ended = time.monotonic()
        await stream.send_all(f"got {count}\n".encode())
    for block in pattern(size):
        expected.update(block)
    _report(
        matches=count == size and digest.digest() == expected.digest(), bytes=count, seconds=ended - began
    )


async def many(host: str, port: int, count: int) -> None:
    """Keep `count` connections open together; each must echo before and after all are open."""
    dialling = trio.CapacityLimiter(_DIALLING)
    everybody = trio.Event()
    opened, echoed, failures = 0, 0, list[str]()
    began = time.monotonic()

    async def one(number: int) -> None:
        nonlocal opened, echoed
        try:
            async with dialling:
                stream = await trio.open_tcp_stream(host, port)
                await stream.send_all(b"echo\n")
                await _echo(stream, f"first {number}\n")
            async with stream:
                opened += 1
                if opened + len(failures) == count:
                    everybody.set()
                await everybody.wait()
                await _echo(stream, f"second {number} " + "x" * 1000 + "\n")
                await stream.send_eof()
                if await stream.receive_some() == b"":
                    echoed += 1
        except (OSError, trio.BrokenResourceError, EOFError) as error:
            failures.append(f"{type(error).__name__}: {error}")
            if opened + len(failures) == count:
                everybody.set()

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)
    _report(
        opened=opened,
        echoed=echoed,
        failed=len(failures),
        failures=failures[:5],
        seconds=time.monotonic() - began,
    )


async def hold(host: str, port: int, count: int) -> None:
    """Keep `count` connections busy; print when each ends. Ends when the last one has."""
    held = 0

    async def one(number: int) -> None:
        nonlocal held
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(b"echo\n")
            await _echo(stream, f"{number}\n")
            held += 1
            if held == count:
                _report(holding=count)
            try:
                while True:
                    await _echo(stream, f"{number}\n")
                    await trio.sleep(_TICK)
            except (OSError, trio.BrokenResourceError, EOFError) as error:
                _report(ended=number, at=time.monotonic(), why=f"{type(error).__name__}: {error}")

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)


async def _echo(stream: trio.SocketStream, text: str) -> None:
    data = text.encode()
    await stream.send_all(data)
    got = b""
    while len(got) < len(data):
        more = await stream.receive_some(len(data) - len(got))
        if not more:
            raise EOFError("the connection ended early")
        got += more
    if got != data:
        raise EOFError(f"sent {data!r}, got {got!r} back")


def _report(**what: object) -> None:
    print(json.dumps(what), flush=True)


_CALLERS: dict[str, Callable[[str, int, int], Awaitable[None]]] = {
    "name": ask_name,
    "upload": upload,
    "download": download,
    "many": many,
    "hold": hold,
}


async def _run(what: str, host: str, port: int, number: int) -> None:
    with trio.fail_after(_TIMEOUT):
        await _CALLERS[what](host, port, number)


def main() -> int:
    """Be one caller: what, host, port, and how many or how much."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("what", choices=sorted(_CALLERS))
    arguments.add_argument("host")
    arguments.add_argument("port", type=int)
    arguments.add_argument("number", type=int, nargs="?", default=1)
    given = arguments.parse_args()
    trio.run(_run, given.what, given.host, given.port, given.number)
    return 0


if __name__ == "__main__":
    sys.exit(main())

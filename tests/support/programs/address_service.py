"""A TCP service that says what it knows of its caller: one JSON line, unless the first line is ``echo``.

``peer`` is where the connection comes from. With ``--told`` a PROXY header must come first (version 2), and
``told`` is the caller's address and identity that it names. What comes after the first line is given back.
"""

import argparse
import functools
import ipaddress
import json
import struct
import sys

import trio

_PREFIX = struct.Struct("!12sBBH")
_TLV = struct.Struct("!BH")
_SPIFFE_ID = 0xE0
# More than the tests' thousand callers at once.
_BACKLOG = 2048


async def _read(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


async def _told(stream: trio.SocketStream) -> dict[str, str] | None:
    """Read a PROXY header; None when it is LOCAL."""
    _, command, family, length = _PREFIX.unpack(await _read(stream, _PREFIX.size))
    body = await _read(stream, length)
    if command == 0x20:
        return None
    size = {0x11: 4, 0x21: 16}[family]
    told = {"address": str(ipaddress.ip_address(body[:size]))}
    rest = body[2 * size + 4 :]
    while rest:
        kind, length = _TLV.unpack_from(rest)
        if kind == _SPIFFE_ID:
            told["identity"] = rest[_TLV.size : _TLV.size + length].decode()
        rest = rest[_TLV.size + length :]
    return told


async def _serve(stream: trio.SocketStream, *, told: bool) -> None:
    try:
        async with stream:
            said: dict[str, object] = {"peer": stream.socket.getpeername()[0]}
            if told:
                header = await _told(stream)
                if header is None:
                    return
                said["told"] = header
            line = b""
            while not line.endswith(b"\n"):
                line += await _read(stream, 1)
            if line != b"echo\n":
                await stream.send_all(json.dumps(said).encode() + b"\n")
            async for data in stream:
                await stream.send_all(data)
    except (EOFError, trio.BrokenResourceError):
        # A health check, or a caller that was cut.
        return


async def _run(listen: str, port: int, told: bool) -> None:
    listeners = await trio.open_tcp_listeners(port, host=listen, backlog=_BACKLOG)
    print("serving", flush=True)
    await trio.serve_listeners(functools.partial(_serve, told=told), listeners)


def main() -> int:
    """Serve until ended."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--listen", required=True)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--told", action="store_true")
    given = arguments.parse_args()
    trio.run(_run, given.listen, given.port, given.told)
    return 0


if __name__ == "__main__":
    sys.exit(main())

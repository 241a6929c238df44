"""A wire one can look at without root: passes TCP on, byte for byte, and reads what passes as TLS.

Arguments: where to listen, where to pass on to, markers to look for. Prints ``watching`` when it has
begun, and what it found as one JSON line on SIGUSR1 and when told to end.
"""

import argparse
import functools
import json
import signal
import sys

import trio

from tests.support.wire import Findings, StreamReader


async def _pump(source: trio.SocketStream, sink: trio.SocketStream, reader: StreamReader) -> None:
    try:
        async for data in source:
            reader.feed(bytes(data))
            await sink.send_all(data)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        # One side is gone: so is the other's partner.
        await trio.aclose_forcefully(source)
        await trio.aclose_forcefully(sink)


async def _pass_on(
    stream: trio.SocketStream, *, to: tuple[str, int], findings: Findings, markers: tuple[bytes, ...]
) -> None:
    try:
        onward = await trio.open_tcp_stream(*to)
    except OSError:
        await trio.aclose_forcefully(stream)
        return
    async with stream, onward, trio.open_nursery() as nursery:
        nursery.start_soon(_pump, stream, onward, StreamReader(findings, markers, whole=True))
        nursery.start_soon(_pump, onward, stream, StreamReader(findings, markers, whole=True))


async def _watch(listen: tuple[str, int], to: tuple[str, int], markers: tuple[bytes, ...]) -> None:
    findings = Findings()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1) as signals:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(listen[1], host=listen[0])
            serve = functools.partial(_pass_on, to=to, findings=findings, markers=markers)
            nursery.start_soon(trio.serve_listeners, serve, listeners)
            print("watching", flush=True)
            async for number in signals:
                print(json.dumps({"tls": findings.as_dict()}), flush=True)
                if number == signal.SIGTERM:
                    break
            nursery.cancel_scope.cancel()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main() -> int:
    """Pass on until SIGTERM."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("listen", type=_address)
    arguments.add_argument("to", type=_address)
    arguments.add_argument("--marker", action="append", default=[])
    given = arguments.parse_args()
    trio.run(_watch, given.listen, given.to, tuple(marker.encode() for marker in given.marker))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Sends broken HTTP/2 at both ends for as long as it is told to: ``python -m tests.fuzz.h2 --seconds 60``.

What it looks for: an exception that is none of ours, a connection that does not end, a message that is read
and could not be written in HTTP/1.1. It says the seed of what it finds, which `--seed` repeats.
"""

import argparse
import random
import sys
import time

import trio
import trio.testing

from node_proxy.dataplane.http.channel import Channel, ChannelBroken
from node_proxy.dataplane.http.exchange import ExchangeBroken, MessageRefused, ServerExchange
from node_proxy.dataplane.http.h2_client import H2ClientConnection
from node_proxy.dataplane.http.h2_server import serve_h2
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.memory_channel import memory_channels
from node_proxy.dataplane.http.message import Fields, RequestHead, ResponseHead
from node_proxy.tunnel import frames
from tests.node_proxy.dataplane.http.h2_raw import GET, POST, PREFACE, data, frame, heads, settings

_LIMITS = HttpLimits(head_bytes=4096, fields=32)
# Seconds of virtual time: longer than every limit.
_PATIENCE = 300
_NAMES = [b"a", b"cookie", b"content-length", b"te", b"host", b"expect", b"connection", b":path", b"A", b""]
_VALUES = [b"", b"1", b"3", b"trailers", b"api", b"100-continue", b"x\r\ny: z", b" x", b"\x00", b"x" * 3000]


def _fields(rng: random.Random, base: Fields) -> Fields:
    fields = [*base]
    for _ in range(rng.choice((0, 0, 0, 1, 1, 40))):
        # Mostly where fields belong, or nothing would be found but misplaced pseudo fields.
        at = len(fields) if rng.random() < 0.9 else rng.randrange(len(fields) + 1)
        fields.insert(at, (rng.choice(_NAMES), rng.choice(_VALUES)))
    if rng.random() < 0.05:
        del fields[rng.randrange(len(fields))]
    return fields


def _frame(rng: random.Random, base: list[Fields], newest: int) -> bytes:
    stream = rng.choice((*[newest] * 20, newest + 2, 1, 0, 2))
    end = rng.random() < 0.4
    match rng.randrange(16):
        case 0 | 1:
            return heads(_fields(rng, rng.choice(base)), stream=stream, end=end)
        case 2 | 3 | 4 | 5 | 6 | 7 | 8:
            return data(rng.randbytes(rng.choice((0, 1, 2, 3, 1000, 20_000))), stream=stream, end=end)
        case 9 | 10 | 11:
            increment = rng.choice((1, 1000, 100_000, 100_000, 0))
            return frame(frames.WINDOW_UPDATE, increment.to_bytes(4, "big"), stream=stream)
        case 12:
            return settings([(rng.randrange(1, 8), rng.choice((0, 1, 100, 16_384, 2**31)))])
        case 13:
            return frame(frames.RST_STREAM, rng.randrange(14).to_bytes(4, "big"), stream=stream)
        case _:
            kind, flags = rng.randrange(12), rng.randrange(256)
            return frame(kind, rng.randbytes(rng.randrange(20)), flags=flags, stream=stream)


def _said(rng: random.Random, beginning: bytes, base: list[Fields]) -> bytes:
    said = bytearray(beginning)
    for newest in range(1, rng.choice((2, 4, 12)), 2):
        said += heads(
            _fields(rng, base[rng.choice((0, 0, 0, 1, 1, -1))]), stream=newest, end=rng.random() < 0.3
        )
        for _ in range(rng.randrange(4)):
            said += _frame(rng, base, newest)
    for _ in range(rng.choice((0, 0, 0, 0, 1, 3))):
        said[rng.randrange(len(said))] = rng.randrange(256)
    return bytes(said)


async def _send(rng: random.Random, channel: Channel, said: bytes) -> None:
    try:
        while said:
            cut = rng.randrange(1, 1 + min(len(said), rng.choice((3, 50, 40_000))))
            await channel.send(said[:cut])
            said = said[cut:]
            await trio.lowlevel.checkpoint()
            if rng.random() < 0.7:
                channel.receive_nowait()
        await trio.sleep(rng.random())
    except ChannelBroken:
        return
    if rng.random() < 0.5:
        channel.close()
    else:
        channel.abort()


async def _handle(exchange: ServerExchange) -> None:
    head = exchange.head
    line = head.method + head.target + head.authority
    written = b"".join((line, *(part for each in head.fields for part in each)))
    if set(written) & set(b"\r\n\x00") or b" " in line:
        raise AssertionError(f"this was read as a request: {head}")
    total = 0
    while received := await exchange.body.receive():
        total += len(received)
    if head.length is not None and head.length != total:
        raise AssertionError(f"{total} bytes of {head.length} were a whole body")
    await exchange.respond(ResponseHead(200), b"x" * total, end=True)


async def _at_server(rng: random.Random) -> None:
    near, far = memory_channels()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            _send, rng, near, _said(rng, PREFACE + settings(), [GET, POST, [(b"x-sum", b"1")]])
        )
        await serve_h2(far, _handle, limits=_LIMITS, draining=lambda: False, on_refused=lambda _: None)


async def _ask(client: H2ClientConnection) -> None:
    try:
        head = RequestHead(b"POST", b"/", b"api", [], length=None)
        exchange = await client.request(head, b"x" * 70_000, end=True)
        while (await exchange.response()).status < 200:
            pass
        while await exchange.body.receive():
            pass
    except (ExchangeBroken, MessageRefused):
        return


async def _at_client(rng: random.Random) -> None:
    near, far = memory_channels()
    client = H2ClientConnection(near, limits=_LIMITS)
    answers: list[Fields] = [[(b":status", b"200")], [(b":status", b"103")], [(b"grpc-status", b"0")]]
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(_ask, client)
        nursery.start_soon(_send, rng, far, _said(rng, settings(), answers))
        await client.run()


async def _one(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - a seed that can be repeated is the point
    with trio.fail_after(_PATIENCE):
        await rng.choice((_at_server, _at_client))(rng)


def main() -> None:
    """Run until the time is over, or something is found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    first = time.monotonic_ns() if arguments.seed is None else arguments.seed
    seed, ends = first, time.monotonic() + arguments.seconds
    while time.monotonic() < ends:
        try:
            trio.run(_one, seed, clock=trio.testing.MockClock(autojump_threshold=0))
        except BaseException:
            print(f"seed {seed}", file=sys.stderr)
            raise
        seed += 1
        if arguments.seed is not None:
            break
    print(f"{seed - first} connections, nothing found")


if __name__ == "__main__":
    main()

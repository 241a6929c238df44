"""How many queries the resolver answers, and whether it loses any: ``python -m tests.bench.names``.

A resolver of 2,000 services runs in a process of its own; `--at` asks another instead, such as an agent's.
The client keeps its rate if it can and waits with so many answers outstanding as 100 stubs would.
"""

import argparse
import contextlib
import ipaddress
import itertools
import random
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import dns.message
import trio

from node_proxy.address import SocketAddress
from node_proxy.agent.dns.answer import Responder
from node_proxy.agent.dns.server import DnsServer
from node_proxy.agent.dns.zone import Contents, NamedPort, NamedService, Zone, labels_of
from node_proxy.agent.listeners import bind, bound_address

SERVICES = 2000
NETWORKS = (ipaddress.ip_network("240.240.0.0/16"), ipaddress.ip_network("fd6d:6573:6800::/64"))
OUTSTANDING = 100
MADE = 20_000
# A host calls some of them again and again.
CALLED = 200
# What the C library waits; an answer that has not come by then is lost.
PATIENCE = 5.0


@dataclass(slots=True)
class Tally:
    """What came of it; `milliseconds` are each answer's."""

    asked: int = 0
    answered: int = 0
    seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Queries without an answer."""
        return self.asked - self.answered


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.names", description="Load on the resolver.")
    parser.add_argument("--rate", type=float, default=5000, help="queries a second; 0 is as many as it can")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--at", type=SocketAddress, help="ask this resolver instead of one made for it")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        trio.run(_serve)
        return
    with contextlib.ExitStack() as stack:
        at = given.at or stack.enter_context(resolver())
        tally = measure(at, rate=given.rate, seconds=given.seconds)
    times = sorted(tally.milliseconds)
    print(
        f"{tally.answered} answers in {tally.seconds:.1f} s, {tally.answered / tally.seconds:.0f}/s, "
        f"{tally.lost} lost; median {statistics.median(times):.2f} ms, "
        f"99 % below {times[int(len(times) * 0.99)]:.2f} ms"
    )
    sys.exit(1 if tally.lost else 0)


@contextlib.contextmanager
def resolver() -> Iterator[SocketAddress]:
    """Run a resolver in a process of its own until the block ends."""
    command = [sys.executable, "-m", "tests.bench.names", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield SocketAddress(process.stdout.readline().strip())
        finally:
            process.kill()


def measure(at: SocketAddress, *, rate: float, seconds: float) -> Tally:
    """Ask at `rate` for `seconds`, then wait for what is still to come."""
    tally = Tally()
    # Made before, so that making them takes no time of what is measured.
    queries = itertools.cycle(list(itertools.islice(_queries(), MADE)))
    waiting: dict[bytes, tuple[bytes, float]] = {}
    family = socket.AF_INET if at.ip.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect((str(at.ip), at.port))
        client.setblocking(False)
        began = time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds or waiting:
            due = passed * rate if rate else float("inf")
            while passed < seconds and tally.asked < due and len(waiting) < OUTSTANDING:
                number, body = tally.asked.to_bytes(4, "big")[2:], next(queries)
                waiting[number] = (body, time.perf_counter())
                client.send(number + body)
                tally.asked += 1
            select.select([client], [], [], 0.001)
            with contextlib.suppress(BlockingIOError):
                while True:
                    _take(client.recv(65535), waiting, tally)
            if waiting and time.perf_counter() - next(iter(waiting.values()))[1] > PATIENCE:
                # The oldest is given up, and with it whatever was asked before it.
                waiting.pop(next(iter(waiting)))
        tally.seconds = time.perf_counter() - began
    return tally


def _take(answer: bytes, waiting: dict[bytes, tuple[bytes, float]], tally: Tally) -> None:
    """Match an answer with its query: the number, and the question byte for byte."""
    found = waiting.pop(answer[:2], None)
    if found is not None and answer[12 : len(found[0]) + 2] == found[0][10:] and answer[2] & 0x80:
        tally.answered += 1
        tally.milliseconds.append((time.perf_counter() - found[1]) * 1000)


def _queries() -> Iterator[bytes]:
    """Give queries without their numbers: names that exist, in any case, and each fifth one that does not."""
    rng = random.Random(1)  # noqa: S311 (nothing secret comes of it)
    for number in itertools.count():
        chosen = rng.randrange(CALLED)
        service = f"s{chosen}.default.mesh"
        name, kind = rng.choice([
            (service, "A"),
            (service.title(), "AAAA"),
            (f"_http._tcp.{service}", "SRV"),
            (NETWORKS[0][1 + chosen].reverse_pointer, "PTR"),
            (f"nobody-{number}.mesh", "A"),
        ])  # fmt: skip
        yield dns.message.make_query(name, kind).to_wire()[2:]


async def _serve() -> None:
    services = tuple(
        NamedService(
            name=f"s{i}",
            namespace="default",
            addresses=tuple(str(network[i + 1]) for network in NETWORKS),
            ports=(NamedPort(name="http", port=80),),
        )
        for i in range(SERVICES)
    )
    responder = Responder(apex=labels_of("mesh"), ttl=5, recursion=False)
    contents = Contents(services=services, networks=NETWORKS)
    responder.give(Zone(contents, domain="mesh", namespace="default", serial=1))
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(bind(SocketAddress("127.0.0.1:0"), "bench"))
        udp = stack.enter_context(bind(SocketAddress(bound_address(tcp)), "bench", kind=socket.SOCK_DGRAM))
        print(bound_address(udp), flush=True)
        await DnsServer(udp=[udp], tcp=[tcp], responder=responder, forwarder=None).serve()


if __name__ == "__main__":
    main()

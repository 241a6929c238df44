"""What test_owner_lookup runs inside a network namespace of its own; prints what it saw as JSON."""

import contextlib
import json
import socket
import subprocess

import trio

from node_proxy.agent.capture.apply import Kernel
from node_proxy.agent.capture.plan import plan
from node_proxy.agent.capture.terms import CaptureRules, CaptureView
from node_proxy.dataplane.accept import original_destination
from node_proxy.dataplane.cgroups import Cgroups
from node_proxy.dataplane.owner_lookup import OwnerLookup
from tests.fakes.context import scene
from tests.support.owned import OwnedClient, slice_of_test

PORT = 15001
VIP4, OTHER4, VIP6, OTHER6 = "240.240.0.7", "240.240.0.8", "fd6d:6573:6800::7", "fd6d:6573:6800::8"
WEB_USER, BATCH_USER = 4242, 4243


class Probe:
    """Captured listeners, and two users' processes."""

    def __init__(self, web: OwnedClient, batch: OwnedClient) -> None:
        context = scene().context
        self.lookup = OwnerLookup(context, Cgroups(context.clock, list))
        self.listeners = {
            4: socket.create_server(("127.0.0.1", PORT)),
            6: socket.create_server(("::1", PORT), family=socket.AF_INET6),
        }
        for listener in self.listeners.values():
            listener.settimeout(5)
        self.web, self.batch = web, batch

    def accept(self, target: str) -> socket.socket:
        """Accept what was meant for `target`."""
        sock, _ = self.listeners[6 if target.startswith("fd") else 4].accept()
        assert original_destination(sock) == (target, 80)
        return sock

    def owner(self, accepted: socket.socket) -> str:
        """Say who called."""
        process = self.lookup.process(accepted, redirected=True)
        return f"{process.uid} {process.unit}"

    def both(self, target: str) -> list[str]:
        """Let both call the same address."""
        seen = []
        for client in (self.web, self.batch):
            client.connect(target, 80)
            with self.accept(target) as accepted:
                seen.append(self.owner(accepted))
                client.do("reset")
        return seen

    def one_source_port(self) -> tuple[list[str], bool]:
        """Let both call from the same address and port, to two places."""
        source = self.web.connect(VIP4, 80, source=("10.77.0.1", 40001))
        first = self.accept(VIP4)
        self.batch.connect(OTHER4, 80, source=source)
        second = self.accept(OTHER4)
        with first, second:
            seen = [self.owner(first), self.owner(second)]
            renumbered = second.getpeername()[1] != source[1]
            self.web.do("reset")
            self.batch.do("reset")
        return seen, renumbered

    def former_source_port(self) -> str:
        """Let one call from where the other has just called from."""
        source = self.web.connect(VIP4, 80, source=("10.77.0.1", 40002))
        with self.accept(VIP4):
            self.web.do("reset")
        self.batch.connect(VIP4, 80, source=source)
        with self.accept(VIP4) as accepted:
            return self.owner(accepted)

    def ending(self, end: str) -> str:
        """Let a caller end in some way before it is asked about."""
        self.web.connect(VIP4, 80)
        with self.accept(VIP4) as accepted:
            self.web.do("send", "x")
            self.web.do(end)
            accepted.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                while accepted.recv(10):
                    continue
            return self.owner(accepted)

    def not_redirected(self) -> str:
        """Let a caller connect to the captured port itself, as if it were a destination."""
        self.web.connect("127.0.0.1", PORT)
        sock, _ = self.listeners[4].accept()
        subprocess.run(["ss", "--kill", "dport", "=", str(PORT)], check=True, capture_output=True)
        with sock:
            return self.owner(sock)


async def main() -> None:
    """Ask about callers of all sorts."""
    for line in ("link set lo up", "addr add 10.77.0.1/32 dev lo", "addr add fd77::1/128 dev lo nodad"):
        await trio.run_process(["ip", *line.split()])
    wanted = plan(
        CaptureRules(port=PORT, mark=1),
        CaptureView(
            vip_ranges=("240.240.0.0/16", "fd6d:6573:6800::/64"),
            vips={"default/api": (VIP4, OTHER4, VIP6, OTHER6)},
        ),
    )
    kernel = Kernel()
    for network in wanted.routes:
        kernel.add_route(network)
    kernel.load(wanted.ruleset({}))
    with (
        slice_of_test() as top,
        OwnedClient(uid=WEB_USER, cgroup=f"{top}/web.service") as web,
        OwnedClient(uid=BATCH_USER, cgroup=f"{top}/batch.service") as batch,
    ):
        probe = Probe(web, batch)
        seen: dict[str, object] = {"IPv4": probe.both(VIP4), "IPv6": probe.both(VIP6)}
        web.connect(f"::ffff:{VIP4}", 80)
        with probe.accept(VIP4) as accepted:
            seen["mapped"] = probe.owner(accepted)
        seen["one source port"], seen["given another port"] = probe.one_source_port()
        seen["the other's source port"] = probe.former_source_port()
        seen["half-closed"] = probe.ending("half_close")
        seen["gone"] = probe.ending("reset")
        seen["not redirected"] = probe.not_redirected()
    print(json.dumps(seen))


if __name__ == "__main__":
    trio.run(main)

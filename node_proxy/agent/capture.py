"""Interception of the mesh's virtual IPs: one nftables table and the routes that make them reachable.

`plan` is pure. The table is replaced atomically, concerns only TCP to the virtual ranges, and leaves alone
what the proxy itself sends, so that no mistake in it can lock anybody out.
"""

import ipaddress
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import trio

from node_proxy.errors import ConfigError

TABLE = "inet nodemesh"
# A virtual range wider than this would take in addresses that are somebody's.
WIDEST = {4: 8, 6: 32}

log = structlog.get_logger("node_proxy.agent.capture")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """What is to be in force: nft's input, and the networks routed to loopback."""

    ruleset: str
    routes: tuple[Network, ...]


def plan(
    *,
    vip_ranges: Sequence[str],
    port: int,
    mark: int,
    exempt_ports: Sequence[int] = (),
    exempt_addresses: Sequence[str] = (),
) -> CapturePlan:
    """Write the ruleset that redirects TCP to `vip_ranges` to `port`.

    Args:
        vip_ranges: the mesh's virtual networks in CIDR form.
        port: where the workers accept captured connections.
        mark: carried by the proxy's own sockets, which are left alone.
        exempt_ports: destination ports that are left alone.
        exempt_addresses: IP addresses that are left alone: this node, etcd, the registry.

    Raises:
        ConfigError: a range is malformed, too wide, or contains an exempt address.
    """
    networks = tuple(_network(text) for text in vip_ranges)
    for network in networks:
        for address in map(ipaddress.ip_address, exempt_addresses):
            if address in network:
                raise ConfigError(
                    f"mesh: spec.vipRanges: {network} contains the real {address}; choose another range"
                )
    rules = [
        f"meta mark {mark:#x} accept",
        "ip daddr 127.0.0.0/8 accept",
        "ip6 daddr ::1 accept",
    ]
    if exempt_ports:
        rules.append(f"tcp dport {{ {', '.join(str(each) for each in sorted(set(exempt_ports)))} }} accept")
    # nft wants `meta l4proto tcp` before a redirect to a port.
    rules += [
        f"{'ip' if network.version == 4 else 'ip6'} daddr {network} meta l4proto tcp redirect to :{port}"
        for network in networks
    ]
    body = "\n".join(f"    {rule}" for rule in rules)
    # nft 1.0.6 has no `destroy`: adding first makes the delete succeed; one input is one transaction.
    ruleset = (
        f"add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n  chain output {{\n"
        f"    type nat hook output priority -100; policy accept;\n{body}\n  }}\n}}\n"
    )
    return CapturePlan(ruleset, networks)


def _network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(f"mesh: spec.vipRanges: {text!r}: {error}; write 240.240.0.0/16") from error
    if network.prefixlen < WIDEST[network.version]:
        raise ConfigError(
            f"mesh: spec.vipRanges: {network} is too wide; use at least /{WIDEST[network.version]}"
        )
    return network


class Capture:
    """What is in force on this host. `apply` replaces it, `remove` takes it away."""

    def __init__(self) -> None:
        self._routes: tuple[Network, ...] = ()

    async def apply(self, wanted: CapturePlan) -> None:
        """Put `wanted` in force: routes first, since the redirect only sees what has a route.

        Raises:
            ConfigError: nft or ip failed; says what it wrote.
        """
        for network in wanted.routes:
            await _ip(network, "replace")
            self._routes = (*self._routes, network)
        await _run("nft", "-f", "-", stdin=wanted.ruleset)
        for network in self._routes:
            if network not in wanted.routes:
                await self._remove_route(network)
        self._routes = wanted.routes
        log.info("capture in force", ranges=[str(network) for network in wanted.routes])

    async def remove(self) -> None:
        """Take table and routes away; what is gone already is no error. Not cut short by cancellation."""
        with trio.move_on_after(5, shield=True):
            try:
                await _run("nft", "-f", "-", stdin=f"add table {TABLE}\ndelete table {TABLE}\n")
            except ConfigError as error:
                log.warning("capture not removed", error=str(error))
            for network in dict.fromkeys(self._routes):
                await self._remove_route(network)
            self._routes = ()

    async def _remove_route(self, network: Network) -> None:
        try:
            await _ip(network, "del")
        except ConfigError as error:
            log.warning("route not removed", network=str(network), error=str(error))


async def _ip(network: Network, verb: str) -> None:
    await _run("ip", f"-{network.version}", "route", verb, str(network), "dev", "lo")


async def _run(program: str, *arguments: str, stdin: str = "") -> None:
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise ConfigError(f"[capture] needs {program}; install it, or write enabled = false")
    done = await trio.run_process(
        [path, *arguments],
        stdin=stdin.encode(),
        stdout=subprocess.DEVNULL,
        capture_stderr=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise ConfigError(f"[capture] {program} {' '.join(arguments)} failed: {said}; it needs CAP_NET_ADMIN")

"""Plans and what others keep in nftables, for the tests of capture."""

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from node_proxy.agent.capture.plan import CapturePlan, plan
from node_proxy.agent.capture.terms import CaptureRules, CaptureView

V4, V6 = "240.240.0.0/16", "fd6d:6573:6800::/64"
API4, API6 = "240.240.0.7", "fd6d:6573:6800::7"
PORT, INBOUND_PORT, MARK = 15001, 15006, 0x539
DOCKER = """
table ip nat {
  chain DOCKER {
    iifname "docker0" return
    iifname != "docker0" tcp dport 8080 dnat to 172.17.0.2:80
  }
  chain PREROUTING {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local counter packets 0 bytes 0 jump DOCKER
  }
  chain OUTPUT {
    type nat hook output priority -100; policy accept;
    ip daddr != 127.0.0.0/8 fib daddr type local jump DOCKER
  }
  chain POSTROUTING {
    type nat hook postrouting priority srcnat; policy accept;
    oifname != "docker0" ip saddr 172.17.0.0/16 masquerade
  }
}
"""
FIREWALLD = """
table inet firewalld {
  set trusted {
    type ipv4_addr
    flags interval
    elements = { 10.0.0.0/8 }
  }
  chain filter_INPUT {
    type filter hook input priority filter + 10; policy accept;
    ct state established,related accept
    iifname "lo" accept
    tcp dport 22 accept
  }
  chain nat_PREROUTING {
    type nat hook prerouting priority dstnat + 10; policy accept;
  }
}
"""


def rules(**changes: object) -> CaptureRules:
    """Give an operator's settings."""
    return CaptureRules(**{"port": PORT, "mark": MARK, **changes})  # type: ignore[arg-type]


def view(**changes: object) -> CaptureView:
    """Give what a mesh with one service says."""
    return CaptureView(
        **{  # type: ignore[arg-type]
            "vip_ranges": (V4, V6),
            "vips": {"default/api": (API4, API6)},
            "ports": {"default/api": (80,)},
            **changes,
        }
    )


def planned(**settings: object) -> CapturePlan:
    """Plan with these settings and one service."""
    return plan(rules(**settings), view())


def of_services(count: int) -> CaptureView:
    """Give a mesh of so many services."""
    first4, first6 = ip_address("240.240.0.1"), ip_address("fd6d:6573:6800::1")
    return view(
        vips={f"default/s{number}": (str(first4 + number), str(first6 + number)) for number in range(count)}
    )


def everything() -> dict[str, str]:
    """Give all that capture could leave behind on this host: rules, routes, policy routing, settings."""
    commands = {
        "nft": ["nft", "list", "ruleset"],
        "routes": ["ip", "-4", "route", "show", "table", "all"],
        "routes6": ["ip", "-6", "route", "show", "table", "all"],
        "rules": ["ip", "rule"],
        "rules6": ["ip", "-6", "rule"],
        "sysctls": ["sysctl", "--all", "--ignore", "--pattern", r"^net\.ipv[46]\.(conf|ip_|tcp_)"],
    }
    found = {
        name: subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for name, command in commands.items()
    }
    # The kernel adds those of link-local addresses when it has made sure that nobody else has them.
    found["routes6"] = "".join(each for each in found["routes6"].splitlines(True) if "fe80:" not in each)
    return found


def others(ruleset: str) -> str:
    """Give `nft list ruleset` without our table."""
    kept, ours = [], False
    for line in ruleset.splitlines():
        ours = ours or line == "table inet nodemesh {"
        if not ours:
            kept.append(line)
        ours = ours and line != "}"
    return "\n".join(kept)


def load(ruleset: str) -> None:
    """Load somebody's rules."""
    subprocess.run(["nft", "-f", "-"], input=ruleset, text=True, check=True)


@contextmanager
def accepting(port: int = PORT) -> Iterator[list[socket.socket]]:
    """Listen as the proxy does."""
    listeners = []
    try:
        for host, family in zip(("127.0.0.1", "::1"), (socket.AF_INET, socket.AF_INET6), strict=True):
            listeners.append(socket.create_server((host, port), family=family))
            listeners[-1].settimeout(0.2)
        yield listeners
    finally:
        for each in listeners:
            each.close()


def arrived(listeners: list[socket.socket]) -> str:
    """Accept one connection; give where it wanted to go, or "" when there is none."""
    for listener in listeners:
        try:
            accepted, _ = listener.accept()
        except TimeoutError:
            continue
        with accepted:
            return _original_destination(accepted)
    return ""


def reach(address: str, port: int, listeners: list[socket.socket], *, mark: int = 0) -> str:
    """Connect; give the destination that arrived at a listener, or what happened instead."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as caller:
        caller.settimeout(1)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        try:
            caller.connect((address, port))
        except TimeoutError:
            return "no answer"
        except OSError as error:
            return os.strerror(error.errno or 0)
        return arrived(listeners) or "elsewhere"


def routes_of(protocol: str) -> str:
    """Give the routes that carry a protocol number."""
    return "".join(
        subprocess.run(
            ["ip", version, "route", "show", "proto", protocol], capture_output=True, text=True, check=True
        ).stdout
        for version in ("-4", "-6")
    )


def _original_destination(accepted: socket.socket) -> str:
    if accepted.family == socket.AF_INET:
        raw = accepted.getsockopt(socket.SOL_IP, 80, 16)
        return f"{socket.inet_ntoa(raw[4:8])}:{struct.unpack_from('!H', raw, 2)[0]}"
    raw = accepted.getsockopt(socket.IPPROTO_IPV6, 80, 28)
    return f"{socket.inet_ntop(socket.AF_INET6, raw[8:24])}:{struct.unpack_from('!H', raw, 2)[0]}"


def state_files(state_dir: Path) -> list[str]:
    """Name what is kept in a state directory."""
    return sorted(each.name for each in state_dir.iterdir()) if state_dir.is_dir() else []

"""What the kernel holds of ours: one table, by nft; routes that carry our protocol number, by ip.

Every call blocks. Each is one transaction of the kernel's, so that one that is cut short has happened or not.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from node_proxy.agent.capture.plan import CapturePlan
from node_proxy.agent.capture.ruleset import REMOVAL, TABLE
from node_proxy.agent.capture.terms import Elements
from node_proxy.errors import ConfigError

# Says whose a route is. iproute2's rt_protos gives this number to nobody.
ROUTE_PROTOCOL = "157"
# A ruleset of thousands of elements takes a tenth of a second; whoever holds the kernel's lock longer is ill.
PATIENCE = 20.0
# nft looks for cgroups below this and nowhere else.
NFT_CGROUPS = Path("/sys/fs/cgroup")
_MOUNTS = Path("/proc/self/mountinfo")
_IPV6_OFF = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
# Cgroups are not compared: the name of one that was made anew is that of another.
_DYNAMIC = re.compile(r"(vips|endpoints)[46]|inbound_ports")


class Kernel:
    """This host's own. Raises ConfigError where nft or ip fail; the message has what they said."""

    def load(self, ruleset: str) -> None:
        """Run nft's input as one transaction."""
        _run("nft", "-f", "-", stdin=ruleset)

    def remove(self) -> None:
        """Take our table away; none is no error."""
        self.load(REMOVAL)

    def listing(self, *, terse: bool = False) -> str:
        """Give our table as nft writes it, empty when there is none; `terse` leaves elements out."""
        return _run(
            "nft", *(["--terse"] if terse else []), "list", "table", *TABLE.split(), absent="No such file"
        )

    def elements(self) -> Elements | None:
        """Give what the sets hold that come and go with the mesh; None when there is no table."""
        text = _run("nft", "--json", "list", "table", *TABLE.split(), absent="No such file")
        return read_elements(text) if text else None

    def routes(self) -> tuple[str, ...]:
        """Give the networks of our routes."""
        found = []
        for version in ("-4", "-6"):
            if version == "-4" or has_ipv6():
                listed = _run("ip", version, "route", "show", "proto", ROUTE_PROTOCOL)
                found += [line.split()[0] for line in listed.splitlines()]
        return tuple(found)

    def add_route(self, network: str) -> None:
        """Lead a virtual network to loopback, since the redirect sees only what has a route.

        One that is there already, ours or another's, does as well and is left as it is.
        """
        if ":" in network and not has_ipv6():
            return
        _ip(network, "add", absent="File exists")

    def remove_route(self, network: str) -> None:
        """Take a route of ours away; none is no error."""
        _ip(network, "del", absent="No such process")


def present_cgroups(wanted: CapturePlan) -> Elements:
    """Give those of a plan's cgroups that exist now, as nft names them; empty sets for the others."""
    found: dict[str, frozenset[str]] = {}
    for name, paths in wanted.cgroups.items():
        below = cgroup_prefix()
        named = (f"{below}{path.removeprefix('/')}" for path in paths)
        found[name] = frozenset(f'"{each}"' for each in named if cgroup_exists(each))
    return found


def cgroup_ids(wanted: CapturePlan) -> tuple[int, ...]:
    """Give what changes when one of a plan's cgroups comes, goes, or is made anew."""
    below = NFT_CGROUPS / cgroup_prefix()
    return tuple(
        _inode(below / path.removeprefix("/"))
        for _, paths in sorted(wanted.cgroups.items())
        for path in paths
    )


def cgroup_exists(named: str) -> bool:
    """Whether a cgroup exists, by nft's name."""
    return _inode(NFT_CGROUPS / named) != 0


def cgroup_prefix() -> str:
    """Say where cgroup2 is below nft's place: nothing, or ``unified/`` on hosts that have both kinds."""
    for line in _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
        place, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            mounted = Path(place.split(" ")[4])
            if mounted.is_relative_to(NFT_CGROUPS) and mounted != NFT_CGROUPS:
                return f"{mounted.relative_to(NFT_CGROUPS)}/"
            break
    return ""


def reloadable(listing: str, exists: Callable[[str], bool]) -> str:
    """Turn a listing into nft's input that replaces the table by it, without cgroups that are gone.

    nft shows a cgroup that is gone as a number, and takes only what it finds by name.
    """
    if not listing:
        return REMOVAL

    def living(match: re.Match[str]) -> str:
        kept = [each for each in re.findall(r'"([^"]+)"', match[2]) if exists(each)]
        if not kept:
            return match[1]
        inside = ", ".join(f'"{each}"' for each in kept)
        return f"{match[1]}elements = {{ {inside} }}"

    cleaned = re.sub(r"(type cgroupsv2\n\s*)elements = \{([^}]*)\}", living, listing)
    return f"{REMOVAL}{cleaned}"


def read_elements(listing: str) -> Elements:
    """Read our sets from nft's JSON."""
    found: dict[str, frozenset[str]] = {}
    for entry in json.loads(listing)["nftables"]:
        described = entry.get("set")
        if described and _DYNAMIC.fullmatch(described["name"]):
            found[described["name"]] = frozenset(_texts(described.get("elem", ())))
    return found


def has_ipv6() -> bool:
    """Whether this host's loopback has IPv6; without it nothing of it can be captured."""
    try:
        return _IPV6_OFF.read_text(encoding="ascii").strip() == "0"
    except OSError:
        return False


def _texts(elements: Iterable[object]) -> Iterator[str]:
    for each in elements:
        match each:
            case {"concat": [address, port]}:
                yield f"{address} . {port}"
            case _:
                yield str(each)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _ip(network: str, verb: str, *, absent: str) -> None:
    version = "-6" if ":" in network else "-4"
    _run("ip", version, "route", verb, network, "dev", "lo", "proto", ROUTE_PROTOCOL, absent=absent)


def _run(program: str, *arguments: str, stdin: str = "", absent: str = "") -> str:
    """Run a tool; a failure that says `absent` is an empty answer."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise ConfigError(f"[capture] needs {program}; install it, or write enabled = false")
    try:
        done = subprocess.run(  # noqa: S603 (a tool of the system's, by its full path)
            [path, *arguments], input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"[capture] {program} did not end within {PATIENCE:g} s; see what holds it"
        ) from error
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.strip()
    if absent and absent in said:
        return ""
    raise ConfigError(f"[capture] {program} {' '.join(arguments)} failed: {said}; it needs CAP_NET_ADMIN")

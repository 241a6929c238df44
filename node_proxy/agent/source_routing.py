"""The way back for workloads with `preserve_source`: what they answer to a caller must come to the proxy.

The proxy dials such a workload from the address of a caller that is elsewhere, so the answer would leave by
the interface that leads there. Two rules of our nftables table (`reply_rules`) mark the answers of such
connections and of no others; a rule and a table of routes deliver here what is marked. Rule and route carry
our protocol number, so that whoever looks finds them without knowing how they came.

Every call blocks, is idempotent and leaves everything of others alone.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import structlog
import trio

from node_proxy.agent.reply_rules import reply_mark
from node_proxy.config import NodeConfig
from node_proxy.errors import ConfigError

# Says whose a rule or a route is. iproute2's rt_protos gives this number to nobody.
PROTOCOL: Final = "157"
# The table's number and the rule's preference: the proxy's default mark, and before the routes of VPNs (5270
# for Tailscale's, 32765 for wg-quick's), which would send the answer away.
TABLE: Final = "1337"
PREFERENCE: Final = "1337"
# `ip` takes 2 ms; whoever holds the kernel's routing lock longer is ill.
PATIENCE: Final = 20.0
# How soon what another took away is back: systemd-networkd drops rules that are not its own when it restarts.
INSPECTION_INTERVAL: Final = 10.0
_IPV6: Final = Path("/proc/net/if_inet6")

log = structlog.get_logger("node_proxy.agent.source_routing")


def families_of(config: NodeConfig) -> tuple[int, ...]:
    """Give the IP versions in which workloads of this node see their callers' addresses. Pure."""
    wished = {ip_address(each.address).version for each in config.workloads if each.preserve_source}
    return tuple(sorted(wished))


def install(mark: int, families: Iterable[int]) -> bool:
    """Lead marked answers to this host; whether anything was missing.

    Raises:
        ConfigError: ip failed; says what it wrote.
    """
    changed = False
    for family in families:
        wanted = (f"{reply_mark(mark):#x}", TABLE, int(PREFERENCE))
        found = _rules(family)
        # The route first: a rule that leads nowhere is passed over.
        if not _ip(family, "-json", "route", "show", "table", TABLE, "proto", PROTOCOL, absent=_NO_TABLE):
            _ip(
                family, "route", "replace", "local", "default", "dev", "lo", "table", TABLE, "proto", PROTOCOL
            )
            changed = True
        if wanted not in found:
            _add_rule(family, wanted[0])
            changed = True
        for other in found:
            # Of an earlier configuration, with another mark.
            if other != wanted:
                _delete_rule(family, *other)
    return changed


def remove() -> None:
    """Take rule and route away; what is not there is no error.

    Raises:
        ConfigError: ip failed; says what it wrote.
    """
    # A kernel without IPv6 has nothing to take away, and says that it does not know the question.
    for family in (4, 6) if _IPV6.exists() else (4,):
        for rule in _rules(family):
            _delete_rule(family, *rule)
        _ip(family, "route", "flush", "table", TABLE, "proto", PROTOCOL, absent=_NO_TABLE)


class SourceRouting:
    """The agent's own: in force from its start, put back when lost.

    Args:
        mark: that of the proxy's own sockets.
        families: the IP versions concerned; none takes away what a former run left behind.
    """

    def __init__(self, mark: int, families: tuple[int, ...]) -> None:
        self._mark = mark
        self._families = families

    async def apply(self) -> None:
        """Put it in force.

        Raises:
            ConfigError: it cannot be had.
        """
        if not self._families:
            await trio.to_thread.run_sync(remove)
        elif await trio.to_thread.run_sync(install, self._mark, self._families):
            log.info("answers to callers' addresses come back here", families=self._families, table=TABLE)

    async def keep(self) -> None:
        """Look after it, until cancelled."""
        while self._families:
            await trio.sleep(INSPECTION_INTERVAL)
            try:
                if await trio.to_thread.run_sync(install, self._mark, self._families):
                    log.warning("the way back was taken away by another, and is there again", table=TABLE)
            except ConfigError as error:
                log.error("the way back is broken", error=str(error))  # noqa: TRY400 (the operator's fault)

    async def release(self) -> None:
        """Take it away. Not cut short by cancellation."""
        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(remove)
            except ConfigError as error:
                log.warning("the way back is not removed", error=str(error))


# What ip says of a table that holds nothing.
_NO_TABLE: Final = "FIB table does not exist"

_Rule = tuple[str, str, int]


def _rules(family: int) -> list[_Rule]:
    """Give our rules: mark, table and preference of each."""
    # ip's own filter by protocol lets others through.
    listed = json.loads(_ip(family, "-json", "-Numeric", "rule", "show"))
    return [
        (entry.get("fwmark", "0x0"), str(entry.get("table", "")), entry["priority"])
        for entry in listed
        if str(entry.get("protocol")) == PROTOCOL
    ]


def _add_rule(family: int, mark: str) -> None:
    _ip(
        family, "rule", "add", "fwmark", mark, "lookup", TABLE, "pref", PREFERENCE, "protocol", PROTOCOL,
        absent="File exists",
    )  # fmt: skip


def _delete_rule(family: int, mark: str, table: str, preference: int) -> None:
    _ip(
        family, "rule", "del", "fwmark", mark, "lookup", table, "pref", str(preference), "protocol", PROTOCOL,
        absent="No such file",
    )  # fmt: skip


def _ip(family: int, *arguments: str, absent: str = "") -> str:
    """Run ip; a failure that says `absent` is an empty answer."""
    path = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise ConfigError("preserve_source needs ip; install iproute2, or write preserve_source = false")
    command = [path, f"-{family}", *arguments]
    try:
        done = subprocess.run(  # noqa: S603 (a tool of the system's, by its full path)
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"preserve_source: ip did not end within {PATIENCE:g} s; see what holds it"
        ) from error
    if done.returncode == 0:
        return done.stdout.strip()
    said = done.stderr.strip()
    if absent and absent in said:
        return ""
    raise ConfigError(f"preserve_source: ip {' '.join(arguments)} failed: {said}; it needs CAP_NET_ADMIN")

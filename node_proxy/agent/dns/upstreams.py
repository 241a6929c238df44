"""Which resolvers are asked about names outside the mesh, and in which order."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from node_proxy.address import SocketAddress
from node_proxy.dns_settings import upstream_address

RESOLV_CONF = Path("/etc/resolv.conf")
# What systemd-resolved learned itself; /etc/resolv.conf names only its stub, and that asks us.
RESOLVED_CONF = Path("/run/systemd/resolve/resolv.conf")
RESOLVED_STUBS = frozenset({SocketAddress("127.0.0.53:53"), SocketAddress("127.0.0.54:53")})
# DHCP and VPNs change the file while we run.
REREAD = 5.0
# One that did not answer is asked last for so long.
SHUNNED = 30.0


class Upstreams:
    """Knows the resolvers, and which of them failed lately.

    Args:
        given: those of the configuration; none means those of this host, as they change.
        own: where this resolver listens itself, which is never asked.
        files: where this host's are named, first choice first.
    """

    def __init__(
        self,
        given: Iterable[SocketAddress],
        *,
        own: Collection[SocketAddress],
        files: tuple[Path, ...] = (RESOLV_CONF, RESOLVED_CONF),
    ) -> None:
        self._given = tuple(given)
        self._own = own
        self._files = files
        self._read_at = float("-inf")
        self._system: tuple[SocketAddress, ...] = ()
        self._failed: dict[SocketAddress, float] = {}

    def in_order(self, now: float) -> list[SocketAddress]:
        """Give all of them, those that failed lately last."""
        known = self._given or self._of_this_host(now)
        self._failed = {each: at for each, at in self._failed.items() if now - at < SHUNNED and each in known}
        return sorted(known, key=lambda each: self._failed.get(each, float("-inf")))

    def failed(self, upstream: SocketAddress, now: float) -> bool:
        """Take note that it did not answer; whether that is news."""
        known = upstream in self._failed
        self._failed[upstream] = now
        return not known

    def answered(self, upstream: SocketAddress) -> None:
        """Take note that it did."""
        self._failed.pop(upstream, None)

    def _of_this_host(self, now: float) -> tuple[SocketAddress, ...]:
        if now - self._read_at >= REREAD:
            self._read_at = now
            self._system = next(filter(None, map(self._read, self._files)), ())
        return self._system

    def _read(self, path: Path) -> tuple[SocketAddress, ...]:
        text = ""
        with suppress(OSError):
            text = path.read_text(encoding="utf-8", errors="replace")
        never = RESOLVED_STUBS.union(self._own)
        return tuple(each for each in name_servers(text) if each not in never)


def name_servers(resolv_conf: str) -> Iterator[SocketAddress]:
    """Read resolv.conf(5); what is no address is passed over, as the C library does."""
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            with suppress(ValueError):
                yield upstream_address(words[1])

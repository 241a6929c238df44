"""The tables [[listener]] of proxy.toml, explicit ways into the mesh. Shapes and checks: no I/O."""

import grp
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from node_proxy.address import ListenAddress
from node_proxy.toml import Section, wrong
from registry.model.resource import Port

QualifiedName = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?/[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
# The last number means "leave as it is" to the kernel.
Id = Annotated[int, Meta(ge=0, lt=0xFFFFFFFF)]
# Whoever may connect is still told apart by user and unit.
DEFAULT_MODE = "0660"


class ListenerSection(Section, frozen=True, kw_only=True):
    """A local address that leads into the mesh, speaking for `workload` (default: whoever owns the caller).

    `type`: "service" leads to `service` and `port`; with "socks5" and "http_connect" callers say where to.
    `mode`, `owner` and `group` are a Unix socket's.
    """

    address: ListenAddress
    type: Literal["service", "socks5", "http_connect"] = "service"
    service: QualifiedName | None = None
    port: Port | None = None
    workload: QualifiedName | None = None
    mode: Annotated[str, Meta(pattern=r"^0?[0-7]{3}\Z")] | None = None
    owner: str | Id | None = None
    group: str | Id | None = None

    @property
    def bits(self) -> int:
        """The mode of a Unix socket, as a number."""
        return int(self.mode or DEFAULT_MODE, 8)


def checked_listener(path: Path, index: int, listener: ListenerSection) -> ListenerSection:
    """Check what the types cannot say, and look up the numbers of owner and group.

    Raises:
        ConfigError: a field is missing, has no meaning here, or names nobody.
    """
    place = f"listener[{index}]"
    for field in ("service", "port"):
        given = getattr(listener, field) is not None
        if listener.type == "service" and not given:
            raise wrong(path, f"{place}.{field}", f'is missing; add {field} = …, or type = "socks5"')
        if listener.type != "service" and given:
            raise wrong(path, f"{place}.{field}", f"callers of {listener.type} say where to; remove it")
    tcp = listener.address.tcp
    if listener.type != "service" and tcp is not None and not tcp.ip.is_loopback:
        raise wrong(
            path,
            f"{place}.address",
            f"{tcp} is not on loopback, and whoever reaches it could call in this host's name; "
            f"write 127.0.0.1:{tcp.port} or a unix: path",
        )
    if tcp is not None:
        for field in ("mode", "owner", "group"):
            if getattr(listener, field) is not None:
                raise wrong(path, f"{place}.{field}", "is a Unix socket's; remove it, or write a unix: path")
    return msgspec.structs.replace(
        listener,
        owner=_number(path, f"{place}.owner", listener.owner, lambda name: pwd.getpwnam(name).pw_uid, "user"),
        group=_number(
            path, f"{place}.group", listener.group, lambda name: grp.getgrnam(name).gr_gid, "group"
        ),
    )


def _number(
    path: Path, field: str, named: str | int | None, look_up: Callable[[str], int], what: str
) -> int | None:
    if not isinstance(named, str):
        return named
    try:
        return look_up(named)
    except KeyError:
        mend = (
            f"write {int(named)}, without quotes" if named.isdecimal() else "create it, or write its number"
        )
        raise wrong(path, field, f"this host has no {what} {named!r}; {mend}") from None

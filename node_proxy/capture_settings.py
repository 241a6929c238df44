"""The `[capture]` table of proxy.toml: what this host's interception takes in, and what it leaves alone."""

import pwd
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from node_proxy.errors import ConfigError
from node_proxy.owners import cgroup_fault
from node_proxy.toml import Section, wrong
from registry.model.resource import Port

# The last number means "no user" to the kernel.
Uid = Annotated[int, Meta(ge=0, lt=0xFFFFFFFF)]
User = str | Uid
_LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
ServicePattern = Annotated[str, Meta(pattern=rf"^(\*|{_LABEL}/{_LABEL})$")]
ALL_SERVICES = "*"


class CaptureSection(Section, frozen=True, kw_only=True):
    """Redirection by nftables; needs CAP_NET_ADMIN.

    Outbound, TCP to the virtual IPs of `services` (and with `endpoints` to the addresses of what is behind
    them) goes to `port`. With `inbound`, TCP from other hosts to the ports of this node's workloads goes to
    `inbound_port`, where PeerAuthentication decides. Given `include_…`, only calls of those processes are
    taken; those of `exclude_…` never are. `exempt_ports` are never touched.

    `on_failure`: what holds while the proxy is down unasked; "closed" leaves the rules, "open" takes them
    away. `keep_on_stop` leaves them when it is told to stop.
    """

    enabled: bool = False
    port: Port = 15001
    inbound: bool = False
    inbound_port: Port = 15006
    services: Annotated[tuple[ServicePattern, ...], Meta(min_length=1)] = (ALL_SERVICES,)
    endpoints: bool = False
    include_users: tuple[User, ...] = ()
    exclude_users: tuple[User, ...] = ()
    include_cgroups: tuple[str, ...] = ()
    exclude_cgroups: tuple[str, ...] = ()
    exempt_ports: tuple[Port, ...] = ()
    on_failure: Literal["open", "closed"] = "closed"
    keep_on_stop: bool = False


def checked_capture(path: Path, section: CaptureSection) -> CaptureSection:
    """Check what the shape does not show, and look up users' numbers.

    Raises:
        ConfigError: a user is unknown, a cgroup no path, or the ports collide.
    """
    for field in ("include_cgroups", "exclude_cgroups"):
        for cgroup in getattr(section, field):
            if fault := cgroup_fault(cgroup):
                raise wrong(path, f"capture.{field}", fault)
    if section.inbound and section.port == section.inbound_port:
        raise wrong(path, "capture.inbound_port", f"{section.port} is capture.port too; choose another")
    return msgspec.structs.replace(
        section,
        include_users=tuple(_uid(path, "include_users", each) for each in section.include_users),
        exclude_users=tuple(_uid(path, "exclude_users", each) for each in section.exclude_users),
    )


def _uid(path: Path, field: str, user: User) -> int:
    if isinstance(user, int):
        return user
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise _unknown_user(path, field, user) from None


def _unknown_user(path: Path, field: str, user: str) -> ConfigError:
    mend = f"write the number {int(user)}" if user.isdecimal() else "create it, or write its number"
    return wrong(path, f"capture.{field}", f"this host has no user {user!r}; {mend}")

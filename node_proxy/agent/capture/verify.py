"""Dials through the capture and says, check by check, what came of it."""

import errno
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from node_proxy.address import join_address
from node_proxy.agent.capture.apply import has_ipv6
from node_proxy.agent.capture.plan import CapturePlan
from node_proxy.agent.capture.terms import CaptureRules, HostPort
from node_proxy.capture_settings import CaptureSection

# Everything dialled is this host's own, or as near as etcd.
_PATIENCE = 2.0
# The proxy closes what it cannot carry as soon as it knows, which takes an attempt or three.
_CLOSING = 0.5
# Some port: where the self-check address leads, no service is.
_SOME_PORT = 80
_CLOSED = "the proxy closed it; its log says why"


@dataclass(frozen=True, slots=True)
class Check:
    """What was tried; `passed` is None where nothing follows from it."""

    what: str
    passed: bool | None
    found: str


def verify(
    section: CaptureSection,
    rules: CaptureRules,
    wanted: CapturePlan,
    services: Iterable[tuple[str, HostPort]],
) -> Iterator[Check]:
    """Dial the proxy's ports, a virtual address of each family, etcd and the registry, and `services`."""
    families = ["127.0.0.1", *(["::1"] if has_ipv6() else [])]
    for host in families:
        said = dial(host, section.port)
        yield Check(f"the proxy listens on {join_address(host, section.port)}", not said, said or "accepted")
    if section.inbound:
        said = dial(families[0], section.inbound_port)
        yield Check(f"the proxy listens on port {section.inbound_port}", not said, said or "accepted")
    for address in wanted.self_check:
        if ":" in address and not has_ipv6():
            continue
        said = dial(address, _SOME_PORT)
        if said and rules.selective:
            yield Check(
                f"{address} leads to the proxy", None, f"{said}; this process may be none of those taken"
            )
        else:
            yield Check(f"{address} leads to the proxy", not said, said or "accepted")
        said = dial(address, _SOME_PORT, mark=rules.mark)
        yield Check(f"the proxy's own calls of {address} do not", bool(said), said or "accepted: a loop")
    for host, port in rules.control:
        said = dial(host, port)
        yield Check(f"{join_address(host, port)} (etcd, registry) is reached", not said, said or "accepted")
    for name, (address, port) in services:
        said = dial(address, port, stays=True)
        yield Check(f"{name} answers at {join_address(address, port)}", not said or None, said or "carried")


def dial(host: str, port: int, *, mark: int = 0, stays: bool = False) -> str:
    """Connect; give what went wrong, empty when nothing did. With `stays` it must not be closed at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as caller:
            caller.settimeout(_PATIENCE)
            if mark:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            caller.connect(address)
            if stays:
                caller.settimeout(_CLOSING)
                return "" if _stays_open(caller) else _CLOSED
    except TimeoutError:
        return f"no answer in {_PATIENCE:g} s"
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:
        # It was accepted first.
        return _CLOSED if stays else ""
    except OSError as error:
        return error.strerror or errno.errorcode.get(error.errno or 0, str(error))
    return ""


def _stays_open(caller: socket.socket) -> bool:
    try:
        return bool(caller.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return True

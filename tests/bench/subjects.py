"""What is measured: a subject carries callers' connections to the two backends, by itself or by two proxies.

How each make of proxy is started is in a module of its own; here is what they have in common.
"""

import os
import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.integration.certificates import Authority, Leaf, server_name, spiffe
from tests.support.mesh import free_ports
from tests.support.processes import Process, Processes

LOOPBACK = "127.0.0.1"
CALLER = spiffe("web")
SERVICE = spiffe("api")
# What the service's certificate says beside its identity, for peers that check names only.
SERVICE_NAME = server_name(SERVICE)
# A state in /proc/net/tcp.
_LISTEN = "0A"
_ADMINISTRATORS_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Missing(Exception):
    """A program that a subject needs is not installed; the message names it and its package."""


@dataclass(frozen=True)
class Ports:
    """Where iperf3 and HTTP are reached on loopback: at a backend, or at a proxy that leads there."""

    bulk: int
    http: int


@dataclass(frozen=True)
class Subject:
    """A running subject. `sides` are the processes of the callers' proxy and of the service's.

    Each has one, or one for each worker; a direct connection has none.
    """

    name: str
    ports: Ports
    sides: tuple[Process, ...] = ()


@dataclass(frozen=True)
class Side:
    """How one end of a tunnel proves who it is and checks the other, in PEM; `both` is chain and key."""

    leaf: Leaf
    roots_pem: str
    chain: Path
    key: Path
    both: Path
    roots: Path


@dataclass(frozen=True)
class Site:
    """What a subject is built from: processes and their files in `folder`, certificates, the backends."""

    processes: Processes
    folder: Path
    backends: Ports
    near: Side
    far: Side

    def write(self, name: str, text: str) -> Path:
        """Put a file into the folder."""
        path = self.folder / name
        path.write_text(text)
        return path


Launch = Callable[[Site], Subject]


def issue_side(authority: Authority, folder: Path, identity: str, *names: str) -> Side:
    """Issue a certificate and put it into a new folder."""
    folder.mkdir(parents=True)
    leaf = authority.issue(identity, dns=names)
    side = Side(
        leaf,
        authority.root_pem,
        *(folder / f"{name}.pem" for name in ("chain", "key", "both", "roots")),
    )
    side.chain.write_text(leaf.chain_pem)
    side.key.write_text(leaf.key_pem)
    side.both.write_text(leaf.chain_pem + leaf.key_pem)
    side.roots.write_text(authority.root_pem)
    return side


def launch_direct(site: Site) -> Subject:
    """Give the backends as they are: plain TCP, the most that this machine can do."""
    return Subject("direct", site.backends)


def find_program(name: str, package: str) -> str:
    """Give the path of a program that Debian may keep in sbin.

    Raises:
        Missing: it is not installed.
    """
    if path := shutil.which(name, path=_ADMINISTRATORS_PATH):
        return path
    raise Missing(f"{name} (Debian package {package})")


def pick_ports() -> Ports:
    """Find two free ports for a proxy to listen on."""
    bulk, http = free_ports(2, LOOPBACK)
    return Ports(bulk, http)


def answers(port: int) -> bool:
    """Whether a request is answered all the way through."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def listens(port: int) -> bool:
    """Whether somebody listens on this port, without connecting to it."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == _LISTEN for row in rows)

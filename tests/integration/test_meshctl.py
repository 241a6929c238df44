"""The command meshctl as a process of its own, against a registry served over TLS."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from registry.ca.authority import Authority as RegistryAuthority
from registry.ca.sealing import KeyFile
from registry.clock import utc_now
from registry.founding import found
from registry.listening import Address, listen
from registry.serving import serve
from registry.store.memory import MemoryStore
from tests.fakes.asgi import trio_thread
from tests.integration.certificates import Authority

SERVICE = """\
apiVersion: nodemesh/v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}], selector: {app: web}}
"""


@dataclass(frozen=True, slots=True)
class Served:
    """A registry that answers at `server`; `config` is what its founding wrote for the administrator."""

    server: str
    config: Path

    def meshctl(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run the command in a home without configuration."""
        return subprocess.run(
            [Path(sys.executable).parent / "meshctl", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            env={"PATH": os.environ["PATH"], "HOME": str(self.config.parent)},
            check=False,
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Found a mesh in a memory store and serve it, controller and all, on a free port."""
    store, kek = MemoryStore(), KeyFile(bytes(32))
    listener = listen(Address("127.0.0.1", 0))
    server = f"https://127.0.0.1:{listener.getsockname()[1]}"
    config = tmp_path_factory.mktemp("meshctl") / "meshctl.toml"
    founded, stop, stopped = trio.Event(), trio.Event(), trio.Event()

    async def give_kek() -> KeyFile:
        return kek

    async def run() -> None:
        await found(
            store,
            trust_domain="nodemesh.local",
            make_kek=give_kek,
            server=server,
            admin_config=config,
            clock=utc_now,
        )
        authority = await RegistryAuthority.load(store, kek=kek, clock=utc_now)
        founded.set()
        await serve(store=store, authority=authority, listener=listener, names=(), clock=utc_now, stop=stop)
        stopped.set()

    async def end() -> None:
        stop.set()
        await stopped.wait()

    with capture_logs(), trio_thread() as loop:
        loop.start(run)
        loop.run(founded.wait)
        yield Served(server, config)
        loop.run(end)


def test_the_config_of_the_founding_is_all_it_needs(served: Served) -> None:
    """The file that the founding writes leads to the registry, its certificate verified."""
    result = served.meshctl("--config", str(served.config), "get", "mesh", "-o", "name")
    assert (result.returncode, result.stdout, result.stderr) == (0, "mesh/nodemesh-system/mesh\n", "")


def test_the_controller_judges_what_is_applied(served: Served) -> None:
    """A service that is applied is accepted and gets its virtual addresses, one of each family."""
    served.meshctl("--config", str(served.config), "apply", "-f", "-", stdin=SERVICE)
    view: dict[str, Any] = {}
    deadline = time.monotonic() + 10
    while not view.get("vips") and time.monotonic() < deadline:
        result = served.meshctl("--config", str(served.config), "service", "get", "web", "-o", "json")
        view = json.loads(result.stdout)
    assert (view["accepted"], len(view["vips"])) == (True, 2)


def test_a_token_pins_the_registrys_root(served: Served) -> None:
    """A join token made through the command has the four parts a node needs."""
    words = ("node", "token", "create", "--node", "web-*", "--identity", "default/web")
    token = served.meshctl("--config", str(served.config), *words).stdout.strip()
    assert [len(part) for part in (token.split(".")[0], token.split(".")[3])] == [3, 64]


def test_a_registry_of_another_root_is_not_trusted(
    served: Served, tmp_path: Path, stranger: Authority
) -> None:
    """With another CA the certificate is refused, and the message speaks of the CA, not of the network."""
    ca = tmp_path / "ca.pem"
    ca.write_text(stranger.root_pem)
    result = served.meshctl("--config", str(served.config), "--ca", str(ca), "node", "list")
    assert (result.returncode, "does not vouch for" in result.stderr) == (3, True)


def test_a_port_where_nobody_listens_is_unreachable(served: Served) -> None:
    """A refused connection is exit code 3, and the address is named."""
    # Bound but not listening: refused by the kernel, and nobody else can take it.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        silent = f"https://127.0.0.1:{bound.getsockname()[1]}"
        result = served.meshctl("--config", str(served.config), "--server", silent, "node", "list")
    assert (result.returncode, silent in result.stderr) == (3, True)

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.topology import CACHE, CACHE_PORT, ECHO, GRPC_PORT, Lab
from tests.support.hosts import find_tool

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

# resolv.conf(5): no-aaaa, since glibc 2.36. gRPC minds the C library's settings if it uses its resolver.
IPV4_ONLY = ("env", "GRPC_DNS_RESOLVER=native", "RES_OPTIONS=no-aaaa")
# RFC 3484, which the C library follows: of a name with addresses of both families, IPv6 is tried first.
IPV6_FIRST = ("env", "GRPC_DNS_RESOLVER=native")
FAMILIES = pytest.mark.parametrize(
    ("family", "lookups"), [(0, IPV4_ONLY), (1, IPV6_FIRST)], ids=["ipv4", "ipv6"]
)


@pytest.fixture(scope="module")
def grpc_name(lab: Lab) -> str:
    """The name and port of a gRPC service on the node that is known by its IPv6 address."""
    module = "tests.support.programs.grpc_service"
    lab.mesh.start_service(lab.app2, ECHO.name, module, "--port", str(ECHO.port))
    return f"{ECHO.name}.mesh:{GRPC_PORT}"


@pytest.fixture(scope="module")
def redis_name(lab: Lab) -> Iterator[str]:
    """The name of a Redis server, of which nothing is written to disk."""
    # In Debian the server and this tool are one program that goes by the name it is called; of the two
    # packages redis-tools has the program, and redis-server has a system service, which nobody here needs.
    program = lab.mesh.folder / "redis-server"
    program.symlink_to(find_tool("redis-check-rdb"))
    server = lab.mesh.processes.start(
        "redis",
        [
            *lab.app1.host.prefix, str(program), "--bind", "127.0.0.1", "--port", str(CACHE.port),
            "--save", "", "--dir", str(lab.mesh.folder),
        ],
    )  # fmt: skip
    server.wait_log("Ready to accept connections")
    yield f"{CACHE.name}.mesh"
    server.stop()


def call(lab: Lab, lookups: tuple[str, ...], program: str, *arguments: str) -> dict[str, Any]:
    """Run a client on the calling host, names being looked up so; give what it saw."""
    module = f"tests.support.programs.{program}"
    return dict(json.loads(lab.caller.host.run(*lookups, sys.executable, "-m", module, *arguments).stdout))


@FAMILIES
def test_grpc(lab: Lab, grpc_name: str, family: int, lookups: tuple[str, ...]) -> None:
    """A gRPC client finds a service by name; a large call and a conversation both come through."""
    saw = call(lab, lookups, "grpc_client", grpc_name, "--count", "100")
    assert saw == {"once": True, "echoed": 100, "peers": [lab.virtual[ECHO.name][family]]}


def test_grpc_with_its_own_resolver(lab: Lab, grpc_name: str) -> None:
    """So does one that looks names up by itself, not by the C library."""
    saw = call(lab, ("env", "GRPC_DNS_RESOLVER=ares"), "grpc_client", grpc_name, "--count", "1")
    assert saw["once"]
    assert saw["peers"][0] in lab.virtual[ECHO.name]


@FAMILIES
def test_redis(lab: Lab, redis_name: str, family: int, lookups: tuple[str, ...]) -> None:
    """A Redis client stores a large value, counts in a transaction, and hears what is published."""
    saw = call(lab, lookups, "redis_client", redis_name, str(CACHE_PORT))
    peers = [lab.virtual[CACHE.name][family]]
    assert saw == {"fetched": True, "counted": 100, "heard": "heard", "peers": peers}


def test_redis_cli(lab: Lab, redis_name: str) -> None:
    """Redis's own command line works by name, too."""
    done = lab.caller.host.run("redis-cli", "-h", redis_name, "-p", str(CACHE_PORT), "ping")
    assert done.stdout == "PONG\n"

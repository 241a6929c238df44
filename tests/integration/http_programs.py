"""Programs that people ask HTTP services with, and one that answers: curl, wrk, h2load, nghttpd."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.pair import SERVICE_PORT, Pair
from tests.integration.workloads import PATIENCE, refusing_port
from tests.support.hosts import find_tool

H1 = "--http1.1"
H2 = "--http2-prior-knowledge"
# Of a load; long enough for hundreds of requests.
SECONDS = 2
# What wrk says only when something went wrong; of statuses it counts what is neither 2xx nor 3xx.
_TROUBLE = re.compile(r"Socket errors: .*|Non-2xx or 3xx responses: .*")


def url_of(pair: Pair, name: str = "api") -> str:
    """Give the URL of a service, as callers of the near host say it, without a path."""
    return f"http://127.0.0.1:{pair.near.ports[f'default/{name}:{SERVICE_PORT}']}"


def curl_command(*arguments: str) -> list[str]:
    """Give a call of curl that goes by no proxy of the environment's and does not hang."""
    return ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", f"{PATIENCE}", *arguments]


def curl(*arguments: str, stdin: Path | None = None) -> bytes:
    """Run curl, which must succeed; give what it writes."""
    with (stdin or Path("/dev/null")).open("rb") as given:
        done = subprocess.run(
            curl_command(*arguments), stdin=given, capture_output=True, timeout=2 * PATIENCE, check=False
        )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@dataclass(frozen=True)
class Loaded:
    """How a load went: requests that were answered, and what went wrong."""

    answered: int
    trouble: list[str]


def load_by_wrk(url: str, *, connections: int) -> Loaded:
    """Ask without a pause over connections of HTTP/1.1."""
    said = _run(_find("wrk"), "-t", "1", "-c", f"{connections}", "-d", f"{SECONDS}s", url)
    found = re.search(r"(\d+) requests in ", said)
    assert found, said
    return Loaded(int(found[1]), _TROUBLE.findall(said))


def load_by_h2load(url: str, *, connections: int, streams: int) -> Loaded:
    """Ask without a pause over connections of HTTP/2 that take so many requests at once."""
    said = _run(_find("h2load"), "-c", f"{connections}", "-m", f"{streams}", "-D", f"{SECONDS}", url)
    requests = dict(_counts(said, "requests: "))
    statuses = dict(_counts(said, "status codes: "))
    wrong = [f"{name}: {requests[name]}" for name in ("failed", "errored", "timeout") if requests[name]]
    wrong += [f"{name}: {count}" for name, count in statuses.items() if name != "2xx" and count]
    # Of the last answers it may have seen the head alone when the time was over.
    assert 0 <= statuses["2xx"] - requests["succeeded"] <= connections * streams, said
    return Loaded(requests["succeeded"], wrong)


@contextmanager
def run_nghttpd(folder: Path, *arguments: str) -> Iterator[int]:
    """Serve the files of a folder over HTTP/2, nothing else being spoken; gives the port."""
    with refusing_port() as port:
        # Found free, and given up for the program: it cannot be handed a socket, nor does it tell a port.
        pass
    server = subprocess.Popen(
        [_find("nghttpd"), "--no-tls", "-a", "127.0.0.1", "-d", str(folder), *arguments, str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_listening(port, server)
        yield port
    finally:
        server.kill()
        server.wait()


def _find(name: str) -> str:
    """Find a program; without it, what needs it is left out where the Makefile could not install it."""
    try:
        return find_tool(name)
    except FileNotFoundError as missing:
        if os.geteuid() == 0:
            raise
        pytest.skip(str(missing))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, timeout=SECONDS + PATIENCE, check=True)
    return done.stdout.decode()


def _counts(said: str, line: str) -> Iterator[tuple[str, int]]:
    """Read a line as `requests: 5 total, 0 failed`."""
    (found,) = re.findall(rf"^{line}(.*)$", said, re.MULTILINE)
    for part in found.split(", "):
        count, name = part.split(" ", 1)
        yield name, int(count)


def _wait_listening(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert server.poll() is None, "nghttpd ended"
            assert time.monotonic() < deadline, "nghttpd does not listen"
            time.sleep(0.02)
        else:
            return

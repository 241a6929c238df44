"""Bodies that are large, and readers that are slow: all arrives, and the proxies hold little of it."""

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.model.service import PortProtocol
from tests.integration.certificates import Authority
from tests.integration.http_origin import Origin, run_origin
from tests.integration.http_programs import H1, H2, curl, curl_command, run_nghttpd, url_of
from tests.integration.pair import Pair, run_pair
from tests.integration.workloads import CHUNK, blocks, digest_of_blocks, wait_quiet

VERSIONS = pytest.mark.parametrize("version", [H1, H2])
MEBIBYTE = 1 << 20
LARGE = 64 * MEBIBYTE
# More than curl takes of HTTP/2 by itself, 32 MiB, and all socket buffers and windows on the way hold.
FLOOD = 128 * MEBIBYTE
# Of both proxies together. Windows of the tunnel are in it, and what the interpreter moves by.
MEMORY_ALLOWED = 32 * MEBIBYTE
# In which a proxy that reads ahead would.
READING_AHEAD_SECONDS = 1.5


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a file of `blocks`, beside a small one."""
    path = tmp_path_factory.mktemp("bodies") / "body"
    with path.open("wb") as file:
        file.writelines(blocks(LARGE))
    (path.parent / "small").write_text("hello")
    return path


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Run a workload that speaks HTTP/1.1."""
    with run_origin() as made:
        yield made


@pytest.fixture(scope="module")
def pair(authority: Authority, origin: Origin) -> Iterator[Pair]:
    """Run proxies before it."""
    with run_pair(authority, {"api": [origin.port]}, protocol=PortProtocol.HTTP) as made:
        yield made


@pytest.fixture(scope="module")
def files(authority: Authority, body: Path) -> Iterator[Pair]:
    """Run proxies before a workload that speaks HTTP/2 and has the body."""
    with (
        run_nghttpd(body.parent, "--echo-upload") as port,
        run_pair(authority, {"api": [port]}, protocol=PortProtocol.HTTP2) as made,
    ):
        yield made


class TestLarge:
    @VERSIONS
    def test_download(self, pair: Pair, version: str) -> None:
        """64 MiB of unknown length arrive byte for byte."""
        content = curl(version, f"{url_of(pair)}/chunked/{LARGE}")
        assert hashlib.sha256(content).hexdigest() == digest_of_blocks(LARGE)

    @VERSIONS
    def test_upload(self, pair: Pair, version: str, body: Path) -> None:
        """So they do the other way."""
        told = json.loads(curl(version, "--upload-file", "-", f"{url_of(pair)}/digest", stdin=body))
        assert told == {"digest": digest_of_blocks(LARGE), "length": LARGE}

    @VERSIONS
    def test_http2_workload(self, files: Pair, version: str) -> None:
        """So they do from a workload that speaks HTTP/2."""
        content = curl(version, f"{url_of(files)}/body")
        assert hashlib.sha256(content).hexdigest() == digest_of_blocks(LARGE)


class TestSlowReaders:
    @VERSIONS
    def test_caller(self, pair: Pair, origin: Origin, version: str) -> None:
        """A caller that does not read holds up its workload; the proxies hold little, and nothing is lost."""
        curl(version, f"{url_of(pair)}/blocks/{MEBIBYTE}")
        held, sent = pair.memory(), origin.sent
        # curl waits for the pipe that nobody reads.
        command = curl_command(version, f"{url_of(pair)}/blocks/{FLOOD}")
        with subprocess.Popen(command, stdout=subprocess.PIPE) as caller:
            assert 0 < wait_quiet(lambda: origin.sent) - sent < FLOOD
            assert pair.memory() - held < MEMORY_ALLOWED
            assert curl(version, f"{url_of(pair)}/blocks/5") == b"".join(blocks(5))
            assert caller.stdout
            digester = hashlib.sha256()
            while data := caller.stdout.read(CHUNK):
                digester.update(data)
        assert caller.returncode == 0
        assert digester.hexdigest() == digest_of_blocks(FLOOD)

    def test_caller_of_an_http2_workload(self, files: Pair) -> None:
        """The same when what is held up is a stream of the workload's HTTP/2, and not its connection."""
        curl(H1, f"{url_of(files)}/small")
        held = files.memory()
        with subprocess.Popen(curl_command(H1, f"{url_of(files)}/body"), stdout=subprocess.PIPE) as caller:
            time.sleep(READING_AHEAD_SECONDS)
            assert files.memory() - held < MEMORY_ALLOWED
            assert curl(H2, f"{url_of(files)}/small") == b"hello"
            assert caller.stdout
            assert hashlib.sha256(caller.stdout.read()).hexdigest() == digest_of_blocks(LARGE)
        assert caller.returncode == 0

    @VERSIONS
    def test_workload(self, pair: Pair, origin: Origin, version: str, body: Path) -> None:
        """A workload that does not read holds up its caller."""
        curl(version, f"{url_of(pair)}/blocks/5")
        held = pair.memory()
        origin.released.clear()
        command = curl_command(version, "--upload-file", str(body), f"{url_of(pair)}/patient")
        with subprocess.Popen(command, stdout=subprocess.PIPE) as caller:
            assert 0 < wait_quiet(lambda: _read_by(caller.pid)) < LARGE
            assert pair.memory() - held < MEMORY_ALLOWED
            assert curl(version, f"{url_of(pair)}/blocks/5") == b"".join(blocks(5))
            origin.released.set()
            assert caller.stdout
            told = json.loads(caller.stdout.read())
        assert told == {"digest": digest_of_blocks(LARGE), "length": LARGE}


def _read_by(process: int) -> int:
    """Give how many bytes a process has read, of files above all."""
    said = dict(line.split(": ") for line in Path(f"/proc/{process}/io").read_text().splitlines())
    return int(said["rchar"])

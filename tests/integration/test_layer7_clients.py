"""Clients that people use, through both proxies, to servers that people use."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from registry.model.service import PortProtocol
from tests.integration.certificates import Authority
from tests.integration.http_origin import ETAG, Origin, run_origin
from tests.integration.http_programs import (
    H1,
    H2,
    curl,
    curl_command,
    load_by_h2load,
    load_by_wrk,
    run_nghttpd,
    url_of,
)
from tests.integration.pair import Pair, run_pair
from tests.integration.workloads import PATIENCE, blocks, digest_of_blocks, read_to_end

VERSIONS = pytest.mark.parametrize("version", [H1, H2])
# Over what curl sends at once: from here on it asks with `Expect: 100-continue` first, in HTTP/1.1.
LARGE = 2 << 20
CALLERS = 8


@dataclass(frozen=True)
class Stage:
    """A service behind both proxies, by its URL without a path."""

    pair: Pair
    url: str
    origin: Origin


@pytest.fixture(scope="module")
def stage(authority: Authority) -> Iterator[Stage]:
    """Run a service whose port is said to speak HTTP/1.1."""
    with (
        run_origin() as origin,
        run_pair(authority, {"api": [origin.port]}, protocol=PortProtocol.HTTP) as pair,
    ):
        yield Stage(pair, url_of(pair), origin)


@pytest.fixture(scope="module")
def files(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run one that speaks HTTP/2 and has two files; gives its URL."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "small").write_text("hello")
    with (
        run_nghttpd(folder, "--trailer=x-after: all", "--echo-upload") as port,
        run_pair(authority, {"api": [port]}, protocol=PortProtocol.HTTP2) as pair,
    ):
        yield url_of(pair)


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a file of `blocks`."""
    path = tmp_path_factory.mktemp("body") / "body"
    path.write_bytes(b"".join(blocks(LARGE)))
    return path


def head_of(said: bytes) -> dict[str, str]:
    """Read the last head that curl was told to include; the status goes by an empty name."""
    head = said.decode().split("\r\n\r\n")[-2].split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in head[1:])
    return {"": head[0].split(" ")[1], **fields}


class TestCurl:
    def test_keep_alive(self, stage: Stage) -> None:
        """A connection is kept through answers with a length, in chunks, and without a body."""
        paths = ("blocks/5", "nothing", "chunked/70000", "known", "hints", "blocks/0")
        urls = [f"{stage.url}/{path}" for path in paths]
        # One output file for each URL; curl of this age reuses no connection of HTTP/2.
        nowhere = ["--output", "/dev/null"] * len(urls)
        said = curl(
            H1, *nowhere, "-H", f"If-None-Match: {ETAG}", "-w", "%{response_code}/%{num_connects} ", *urls
        )
        assert said.decode().split() == ["200/1", "204/0", "200/0", "304/0", "200/0", "200/0"]

    @VERSIONS
    def test_head(self, stage: Stage, version: str) -> None:
        """HEAD tells the length where the server did, and none where it did not."""
        known = head_of(curl(version, "--head", f"{stage.url}/blocks/100"))
        assert (known[""], known["content-length"]) == ("200", "100")
        unknown = head_of(curl(version, "--head", f"{stage.url}/chunked/100"))
        assert unknown[""] == "200"
        assert "content-length" not in unknown

    @VERSIONS
    def test_nothing(self, stage: Stage, version: str) -> None:
        """204 has neither body nor length."""
        head = head_of(curl(version, "--include", f"{stage.url}/nothing"))
        assert head[""] == "204"
        assert not {"content-length", "transfer-encoding"} & set(head)

    @VERSIONS
    def test_not_modified(self, stage: Stage, version: str) -> None:
        """304 says what the server said, and no length of its own: a cache would believe it."""
        head = head_of(curl(version, "--include", "-H", f"If-None-Match: {ETAG}", f"{stage.url}/known"))
        assert (head[""], head["etag"]) == ("304", ETAG)
        assert "content-length" not in head

    @VERSIONS
    def test_early_hints(self, stage: Stage, version: str) -> None:
        """103 comes before the answer, with its fields."""
        said = curl(version, "--include", f"{stage.url}/hints")
        first, second, content = said.split(b"\r\n\r\n")
        assert first.split(b" ")[1].startswith(b"103")
        assert b"link: </style.css>; rel=preload" in first
        assert second.split(b" ")[1].startswith(b"200")
        assert content == b"hinted"

    @VERSIONS
    def test_trailers(self, stage: Stage, version: str, tmp_path: Path) -> None:
        """What follows a body in chunks follows it still."""
        heads = tmp_path / "heads"
        content = curl(version, "--dump-header", str(heads), f"{stage.url}/chunked/100000")
        digest = digest_of_blocks(100_000)
        assert hashlib.sha256(content).hexdigest() == digest
        assert heads.read_text().rstrip().endswith(f"x-digest: {digest}")

    def test_continue(self, stage: Stage, body: Path) -> None:
        """A caller that waits for 100 gets it from the workload, and then sends its body."""
        before = stage.origin.continued
        said = curl(H1, "--include", "--data-binary", f"@{body}", f"{stage.url}/digest")
        assert said.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        assert json.loads(said.rsplit(b"\r\n", 1)[1])["digest"] == digest_of_blocks(LARGE)
        assert stage.origin.continued == before + 1

    @VERSIONS
    def test_continue_that_is_declined(self, stage: Stage, body: Path, version: str) -> None:
        """A workload that wants no body says so before any of it was sent."""
        expect = ["-H", "Expect: 100-continue", "--expect100-timeout", f"{PATIENCE}"]
        wanted = ["--output", "/dev/null", "-w", "%{response_code} %{size_upload}"]
        call = curl_command(version, *expect, *wanted, "--data-binary", f"@{body}", f"{stage.url}/picky")
        # curl calls it an error when an answer of HTTP/2 is followed by a reset, whatever the answer.
        done = subprocess.run(call, capture_output=True, timeout=2 * PATIENCE, check=False)
        assert done.stdout.decode() == "417 0"


class TestHttpTwoWorkload:
    @VERSIONS
    def test_answers(self, files: str, version: str) -> None:
        """Callers of either version are answered, by a workload that speaks HTTP/2 alone."""
        said = curl(version, "--include", f"{files}/small")
        assert said.split(b"\r\n\r\n")[1] == b"hello"
        head = head_of(said)
        assert (head[""], head["content-length"]) == ("200", "5")
        assert head_of(curl(version, "--head", f"{files}/small"))["content-length"] == "5"
        assert curl(version, "--output", "/dev/null", "-w", "%{response_code}", f"{files}/none") == b"404"

    @VERSIONS
    def test_not_modified(self, files: str, version: str) -> None:
        """304 has no length of ours here, either."""
        later = ["--time-cond", "Fri, 27 Nov 2037 12:00:00 GMT"]
        head = head_of(curl(version, "--include", *later, f"{files}/small"))
        assert head[""] == "304"
        assert "content-length" not in head

    @VERSIONS
    def test_upload(self, files: str, version: str, body: Path) -> None:
        """A body comes back while it is still being sent."""
        content = curl(version, "--upload-file", "-", f"{files}/echo", stdin=body)
        assert content == body.read_bytes()


class TestPipelining:
    def test_in_order(self, stage: Stage) -> None:
        """Requests that are sent without waiting are answered one by one, as they were asked."""
        chunked = b"POST /digest HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n"
        asked = [
            b"GET /blocks/1000 HTTP/1.1\r\nhost: api\r\n\r\n",
            b"POST /digest HTTP/1.1\r\nhost: api\r\ncontent-length: 3\r\n\r\nabc",
            b"HEAD /blocks/1000 HTTP/1.1\r\nhost: api\r\n\r\n",
            chunked + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            b"GET /nothing HTTP/1.1\r\nhost: api\r\n\r\n",
        ]
        last = b"GET /blocks/10 HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n"
        with stage.pair.call("api") as caller:
            caller.sendall(b"".join(asked) * 5 + last)
            said = read_to_end(caller)
        heads = said.split(b"HTTP/1.1 ")[1:]
        assert [int(head[:3]) for head in heads] == [200, 200, 200, 200, 204] * 5 + [200]
        told = json.dumps({"digest": hashlib.sha256(b"abc").hexdigest(), "length": 3}).encode()
        contents = [head.split(b"\r\n\r\n", 1)[1] for head in heads]
        first = b"".join(blocks(1000))
        assert contents == [first, told, b"", told, b""] * 5 + [b"".join(blocks(10))]


class TestHttpx:
    def test_pool(self, stage: Stage) -> None:
        """Threads that share a pool of connections are each answered by themselves."""

        def ask(number: int) -> bool:
            given = client.post(f"/digest?{number}", content=b"%d" % number * number)
            return bool(given.json()["digest"] == hashlib.sha256(b"%d" % number * number).hexdigest())

        pool = httpx.Limits(max_connections=CALLERS // 2)
        with (
            httpx.Client(base_url=stage.url, trust_env=False, limits=pool, timeout=PATIENCE) as client,
            ThreadPoolExecutor(CALLERS) as threads,
        ):
            assert all(threads.map(ask, range(100)))

    def test_streaming(self, stage: Stage) -> None:
        """Bodies that are made and read piece by piece pass in both directions."""
        with httpx.Client(base_url=stage.url, trust_env=False, timeout=PATIENCE) as client:
            sent = client.put("/digest", content=blocks(LARGE))
            assert sent.json() == {"digest": digest_of_blocks(LARGE), "length": LARGE}
            digester = hashlib.sha256()
            with client.stream("GET", f"/chunked/{LARGE}") as received:
                for part in received.iter_bytes():
                    digester.update(part)
            assert digester.hexdigest() == digest_of_blocks(LARGE)

    def test_answer_that_is_not_read(self, stage: Stage) -> None:
        """A caller that drops an answer half way loses its connection, and nothing else."""
        with httpx.Client(base_url=stage.url, trust_env=False, timeout=PATIENCE) as client:
            for _ in range(5):
                with client.stream("GET", f"/blocks/{8 * LARGE}") as received:
                    assert received.status_code == 200
                assert client.get("/blocks/5").content == b"".join(blocks(5))


def load(url: str) -> None:
    """Have wrk and h2load ask at once."""
    with ThreadPoolExecutor(2) as threads:
        by_wrk = threads.submit(load_by_wrk, url, connections=CALLERS)
        by_h2load = threads.submit(load_by_h2load, url, connections=2, streams=CALLERS)
        for loaded in (by_wrk.result(), by_h2load.result()):
            assert not loaded.trouble
            assert loaded.answered > CALLERS


class TestLoads:
    def test_http1_workload(self, stage: Stage) -> None:
        """Under loads of both versions no request fails."""
        load(f"{stage.url}/blocks/100")

    def test_http2_workload(self, files: str) -> None:
        """Nor does one when the workload speaks HTTP/2."""
        load(f"{files}/small")

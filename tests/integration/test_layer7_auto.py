"""Clients that people use at ports that do not say what they speak."""

import json
import queue
import smtplib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest
from grpc import StatusCode

from registry.model.service import PortProtocol
from tests.integration.certificates import Authority
from tests.integration.chat import run_chat, talk_at_once
from tests.integration.grpc_workloads import calling, failure, run_grpc
from tests.integration.http_origin import run_origin
from tests.integration.http_programs import H1, H2, curl, run_nghttpd, url_of
from tests.integration.pair import SERVICE_PORT, Pair, run_pair
from tests.integration.workloads import PATIENCE, digest_of_blocks, run_workload

LARGE = 4 << 20
# Of silence after which a connection is plain TCP, and what a machine with two busy cores may add.
SNIFFED = 0.5
SLACK = 2.0


class Post:
    """Speaks as much SMTP as it takes to take a mail."""

    def __init__(self) -> None:
        self.mails: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def __call__(self, connection: socket.socket) -> None:
        """Serve one connection."""
        connection.sendall(b"220 mail.mesh\r\n")
        lines = connection.makefile("rb")
        for line in lines:
            match line.split()[0].upper():
                case b"DATA":
                    connection.sendall(b"354 go on\r\n")
                    self.mails.put(b"".join(iter(lines.readline, b".\r\n")))
                    connection.sendall(b"250 taken\r\n")
                case b"QUIT":
                    connection.sendall(b"221 bye\r\n")
                    return
                case _:
                    connection.sendall(b"250 well\r\n")


@dataclass(frozen=True)
class Stage:
    """The proxies, and what mail has come."""

    pair: Pair
    post: Post

    def url(self, name: str) -> str:
        """Give the URL of a service."""
        return url_of(self.pair, name)


@pytest.fixture(scope="module")
def stage(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Run a workload of each kind."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "small").write_text("hello")
    post = Post()
    with (
        run_origin() as origin,
        run_nghttpd(folder) as http2,
        run_workload(post) as mail,
        run_chat() as (chat, _),
        run_grpc() as (echo, _),
    ):
        ports = {"web": origin.port, "web2": http2, "mail": mail.port, "chat": chat, "echo": echo}
        services = {name: [port] for name, port in ports.items()}
        with run_pair(authority, services, protocol=PortProtocol.AUTO) as pair:
            yield Stage(pair, post)


def test_http1(stage: Stage) -> None:
    """HTTP/1.1 is found and spoken to the workload; the connection is kept."""
    url = stage.url("web")
    nowhere = ["--output", "/dev/null"] * 2
    said = curl(H1, *nowhere, "-w", "%{http_version}/%{num_connects} ", f"{url}/blocks/5", f"{url}/chunked/5")
    assert said == b"1.1/1 1.1/0 "


def test_http2(stage: Stage) -> None:
    """HTTP/2 is found and spoken to the workload."""
    said = curl(H2, "-w", " %{http_version}", f"{stage.url('web2')}/small")
    assert said == b"hello 2"


def test_bodies(stage: Stage, tmp_path: Path) -> None:
    """Bodies pass in both directions."""
    url, body = stage.url("web"), tmp_path / "body"
    curl(H1, "--output", str(body), f"{url}/chunked/{LARGE}")
    told = json.loads(curl(H1, "--upload-file", "-", f"{url}/digest", stdin=body))
    assert told == {"digest": digest_of_blocks(LARGE), "length": LARGE}


def test_websocket(stage: Stage) -> None:
    """A WebSocket begins as HTTP/1.1, and both sides talk at once."""
    talk_at_once(stage.pair, "chat")


def test_grpc(stage: Stage) -> None:
    """It is found in HTTP/2: the workload hears of a deadline, and its caller of a status."""
    with calling(stage.pair.near.ports[f"default/echo:{SERVICE_PORT}"]) as channel:
        assert float(channel.unary_unary("/t.Echo/Timeout")(b"", timeout=PATIENCE)) <= PATIENCE + 0.5
        both = channel.stream_stream("/t.Echo/Both")(iter([b"ab", b"cd"]), timeout=PATIENCE)
        assert list(both) == [b"ba", b"dc"]
        error = failure(lambda: channel.unary_unary("/t.Echo/Fails")(b"", timeout=PATIENCE))
    assert error.code() is StatusCode.FAILED_PRECONDITION


def test_server_that_speaks_first(stage: Stage) -> None:
    """A mail program waits for its greeting no longer than it takes to find out, and mail gets through."""
    mail = EmailMessage()
    mail["Subject"] = "GET / HTTP/1.1"
    mail.set_content("\n".join(f"line {number}" for number in range(20_000)))
    began = time.monotonic()
    port = stage.pair.near.ports[f"default/mail:{SERVICE_PORT}"]
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as program:
        assert SNIFFED <= time.monotonic() - began < SNIFFED + SLACK
        assert program.send_message(mail, "a@mesh", "b@mesh") == {}
    arrived = message_from_bytes(stage.post.mails.get(timeout=PATIENCE), policy=SMTP)
    assert arrived["Subject"] == mail["Subject"]
    assert arrived.get_content().splitlines() == mail.get_content().splitlines()

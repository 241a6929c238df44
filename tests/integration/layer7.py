"""A stage for attacks on layer 7: two proxies, a workload behind the far one, ways to send what one likes."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.model.service import PortProtocol
from tests.integration.certificates import Authority, client_context, server_name
from tests.integration.hbone import Header, Stream, TunnelClient
from tests.integration.pair import API, WEB, Pair, run_pair
from tests.integration.worker import Worker
from tests.integration.workloads import CHUNK, PATIENCE, Handler, Workload, run_workload

# RFC 9113 section 4.2: what every peer takes.
FRAME = 16_384


@dataclass
class Stage:
    """The proxies, and who may open tunnels to the far one."""

    pair: Pair
    workload: Workload
    context: ssl.SSLContext

    def send(self, sent: bytes) -> bytes:
        """Send bytes to the near proxy as a caller, and end; gives all that comes back."""
        with self.pair.call("api") as connection:
            connection.settimeout(PATIENCE)
            with contextlib.suppress(ConnectionError):
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
            return read_all(connection)

    def tunnel(self) -> TunnelClient:
        """Open a tunnel to the far proxy, as a node whose proxy is none of ours."""
        far = self.pair.far
        client = TunnelClient((far.address, far.tunnel_port), self.context, name=server_name(API))
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def open(self, client: TunnelClient, *headers: Header) -> Stream:
        """Ask for the workload, and wait for the answer."""
        authority = f"{self.pair.far.address}:{self.workload.port}".encode()
        stream = client.request([(b":method", b"CONNECT"), (b":authority", authority), *headers])
        client.pump(lambda: stream.status is not None or stream.reset is not None)
        return stream


@contextmanager
def run_stage(
    authority: Authority, handler: Handler, *, protocol: PortProtocol = PortProtocol.HTTP
) -> Iterator[Stage]:
    """Run two proxies before a workload."""
    with (
        run_workload(handler) as workload,
        run_pair(authority, {"api": [workload.port]}, protocol=protocol) as pair,
    ):
        yield Stage(pair, workload, client_context(authority.issue(WEB), authority.root_pem))


def read_all(connection: socket.socket) -> bytes:
    """Read to the end, or to a reset."""
    read = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(CHUNK):
            read += data
    return read


def read_answer(connection: socket.socket) -> bytes:
    """Read one answer that has a length, or what there is of it at the end."""
    read = b""
    while b"\r\n\r\n" not in read and (data := connection.recv(CHUNK)):
        read += data
    head, _, body = read.partition(b"\r\n\r\n")
    said = [line for line in head.split(b"\r\n") if line.startswith(b"content-length: ")]
    missing = int(said[0].partition(b": ")[2]) - len(body) if said else 0
    while missing > 0 and (data := connection.recv(missing)):
        read, missing = read + data, missing - len(data)
    return read


def push(client: TunnelClient, stream: Stream, data: bytes, *, end: bool = False) -> None:
    """Send bytes on a stream as the windows allow, unless the other side ends it before."""

    def over() -> bool:
        return stream.ended or stream.reset is not None

    while data and not over():
        room = min(client.h2.local_flow_control_window(stream.stream_id), FRAME, len(data))
        if not room:
            client.pump(lambda: over() or client.h2.local_flow_control_window(stream.stream_id) > 0)
            continue
        client.h2.send_data(stream.stream_id, data[:room])
        client.flush()
        data = data[room:]
    if end and not over():
        client.h2.end_stream(stream.stream_id)
        client.flush()


def wait_over(client: TunnelClient, stream: Stream) -> None:
    """Wait until the other side has ended a stream, or reset it."""
    client.pump(lambda: stream.ended or stream.reset is not None)


def descriptors(worker: Worker) -> int:
    """Count what a worker has open."""
    return len(list(Path(f"/proc/{worker.process.pid}/fd").iterdir()))

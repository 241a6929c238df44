"""The corpus of good and bad HTTP/1.1 against running proxies: as a caller sends it, and as a peer might.

Whatever stands behind the proxies hears the requests that the corpus says, and nothing of what was refused.
"""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from node_proxy.dataplane.http.limits import HEAD_TOO_LARGE, TOO_MANY_FIELDS
from node_proxy.dataplane.http.sniff import PREFACE
from registry.model.service import PortProtocol
from registry.rules.paths import forwardable
from tests.integration.certificates import Authority, client_context, server_name
from tests.integration.hbone import TunnelClient
from tests.integration.http_workloads import Asked, run_http
from tests.integration.pair import API, WEB, Pair, run_pair
from tests.integration.workloads import PATIENCE
from tests.node_proxy.dataplane.http.corpus import RequestCase, request_cases

STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
# What the largest DATA frame carries unless a peer allows more.
FRAME = 16_384
BOUNDS_OF_CALLERS = (HEAD_TOO_LARGE, TOO_MANY_FIELDS)


@dataclass
class Mesh:
    """Two proxies, and what their one workload was asked."""

    pair: Pair
    tunnel: TunnelClient
    port: int
    asked: list[Asked] = field(default_factory=list)

    def by_caller(self, sent: bytes) -> bytes:
        """Send as a process of the near host does; gives all that is answered."""
        answered = b""
        with self.pair.call("api") as caller:
            caller.settimeout(PATIENCE)
            try:
                caller.sendall(sent)
                caller.shutdown(socket.SHUT_WR)
                while data := caller.recv(1 << 16):
                    answered += data
            except ConnectionError:
                # Broken off is an answer as well.
                pass
        return answered

    def by_peer(self, sent: bytes) -> bytes:
        """Send in a tunnel's stream, as no proxy of ours would; gives all that is answered."""
        client = self.tunnel
        stream = client.connect(f"{self.pair.far.address}:{self.port}")
        assert stream.status == 200
        for position in range(0, len(sent), FRAME):
            client.pump(
                lambda: (
                    client.h2.local_flow_control_window(stream.stream_id) >= FRAME or stream.reset is not None
                )
            )
            if stream.reset is None:
                client.h2.send_data(stream.stream_id, sent[position : position + FRAME])
                client.flush()
        if stream.reset is None:
            client.h2.end_stream(stream.stream_id)
            client.flush()
        client.pump(lambda: stream.ended or stream.reset is not None)
        assert not client.closed
        return bytes(stream.data)


@pytest.fixture(scope="module")
def mesh(authority: Authority) -> Iterator[Mesh]:
    """Run two proxies with a workload that notes what it is asked."""
    asked: list[Asked] = []

    def answer(request: Asked) -> tuple[int, list[tuple[str, str]], bytes]:
        asked.append(request)
        return 200, [], b"ok"

    with (
        run_http("api", answer) as workload,
        run_pair(authority, {"api": [workload.port]}, protocol=PortProtocol.HTTP) as pair,
    ):
        context = client_context(authority.issue(WEB), authority.root_pem)
        target = (pair.far.address, pair.far.tunnel_port)
        with TunnelClient(target, context, name=server_name(API)) as tunnel:
            yield Mesh(pair, tunnel, workload.port, asked)


@pytest.mark.parametrize("way", ["by_caller", "by_peer"])
def test_corpus(mesh: Mesh, way: str) -> None:
    """Each case is answered, and heard by the workload, as the corpus says: at either proxy the same."""
    cases = [case for case in request_cases() if not case.sent.startswith(PREFACE)]
    if way == "by_peer":
        # Another proxy may send somewhat more than its callers.
        cases = [case for case in cases if not case.refused.endswith(BOUNDS_OF_CALLERS)]
    wrong = [said for case in cases if (said := _judge(mesh, case, way))]
    assert wrong == []


def _judge(mesh: Mesh, case: RequestCase, way: str) -> str:
    """Give what is wrong with a case; nothing if it went as it should."""
    mesh.asked.clear()
    answered = mesh.by_caller(case.sent) if way == "by_caller" else mesh.by_peer(case.sent)
    wanted = [
        (each.method, forwardable(each.target.decode()), each.authority, each.body)
        for each in case.requests
        if not each.broken
    ]
    heard = [
        (each.method.encode(), each.target, (each.field("host") or "").encode(), each.body)
        for each in mesh.asked
    ]
    if heard != wanted:
        return f"{case.name}: heard {heard} instead of {wanted}"
    statuses = [int(each) for each in STATUS.findall(answered)]
    expected = [200] * len(wanted) + ([int(case.refused[:3])] if case.refused else [])
    if statuses != expected:
        return f"{case.name}: answered {statuses} instead of {expected}"
    return ""

"""Callers that break their own requests, at any time: that is no bug of ours, and nothing is left of it.

`stopping` fails when a worker logs what only a bug would.
"""

import contextlib
import itertools
import socket
import struct
import time

import pytest

from tests.integration.certificates import Authority
from tests.integration.http_recorder import statuses
from tests.integration.layer7 import Stage, descriptors, push, read_answer, run_stage, wait_over
from tests.integration.workloads import CHUNK, PATIENCE

POST = b"POST / HTTP/1.1\r\nhost: api\r\n"
BODIES = {
    "chunked": b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "broken": b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nbroken\r\n",
    "large": b"content-length: 100000\r\n\r\n" + b"x" * 99_999,
    "none": b"content-length: 0\r\n\r\n",
}
# How late the workload answers, and the caller leaves, in seconds.
TIMES = (0.0, 0.03)
DESCRIPTORS_ALLOWED = 40
UNENDED = b"5\r\nhello\r\n"
RESTS = (b"broken\r\n", b"5\r\nhello\r\n0\r\n\r\n", UNENDED)


def leave(connection: socket.socket) -> None:
    """Close with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def answer_after(seconds: float, connection: socket.socket) -> None:
    """Answer as soon as there is a head, without a look at the body."""
    while connection.recv(CHUNK):
        time.sleep(seconds)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


def settled(stage: Stage) -> None:
    """Wait until nothing is left."""
    deadline = time.monotonic() + PATIENCE
    for worker in (stage.pair.near, stage.pair.far):
        while descriptors(worker) > DESCRIPTORS_ALLOWED:
            assert time.monotonic() < deadline, worker.node
            time.sleep(0.05)


@pytest.mark.parametrize("answered", TIMES)
def test_resets(authority: Authority, answered: float) -> None:
    """Whenever a caller resets its connection its request ends, and that is all."""
    with run_stage(authority, lambda connection: answer_after(answered, connection)) as stage:
        for body in BODIES.values():
            for left in TIMES:
                for _ in range(2):
                    caller = stage.pair.call("api")
                    caller.sendall(POST + body)
                    time.sleep(left)
                    leave(caller)
        settled(stage)
        assert statuses(stage.send(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n")) == [200]


@pytest.mark.parametrize("by_peer", [False, True], ids=["caller", "peer"])
def test_rest_of_a_body_behind_its_answer(authority: Authority, by_peer: bool) -> None:
    """A body that goes on, or goes wrong, after the workload has answered: one answer, and no crash."""
    sent = POST + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    with run_stage(authority, lambda connection: answer_after(0.05, connection)) as stage:
        for late, rest in itertools.product((0.0, 0.05, 0.1), RESTS):
            if by_peer:
                with stage.tunnel() as client:
                    stream = stage.open(client)
                    push(client, stream, sent)
                    time.sleep(late)
                    push(client, stream, rest, end=True)
                    wait_over(client, stream)
                    said = statuses(bytes(stream.data))
            else:
                with stage.pair.call("api") as caller:
                    caller.settimeout(PATIENCE)
                    caller.sendall(sent)
                    time.sleep(late)
                    with contextlib.suppress(ConnectionError):
                        caller.sendall(rest)
                    said = statuses(read_answer(caller))
            # A peer that ends within a body may have nothing to be told.
            assert said in ([200], [400]) or (by_peer and rest == UNENDED and not said), (late, rest)
        settled(stage)

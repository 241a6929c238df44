"""Attempts to get past layer 7, through two real proxies: by callers, by peers with a good certificate."""

import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPResponse, IncompleteRead
from typing import Any

import pytest

from node_proxy.dataplane.http.limits import LIMIT_REASONS
from node_proxy.dataplane.http.sniff import PREFACE
from registry.model.authorization import Action
from registry.model.service import PortProtocol
from registry.rules.paths import forwardable
from tests.integration.certificates import Authority, spiffe
from tests.integration.http_recorder import Got, Recorder, statuses
from tests.integration.layer7 import Stage, push, read_all, read_answer, run_stage, wait_over
from tests.integration.pair import API, SERVICE_PORT, WEB
from tests.integration.snapshots import endpoint, local, policy, service, snapshot
from tests.integration.worker import Worker, stopping
from tests.integration.workloads import CHUNK, PATIENCE, run_workload
from tests.node_proxy.dataplane.http.corpus import (
    AnswerCase,
    Request,
    RequestCase,
    answer_cases,
    request_cases,
)
from tests.registry.rules.policies import policy as rules
from tests.registry.rules.policies import targets

ONLY_PUBLIC = rules("only-public", targets({"paths": ["/public"], "methods": ["GET"]}))


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    """Give what keeps the requests that reach the workload."""
    return Recorder()


@pytest.fixture(scope="module")
def stage(authority: Authority, recorder: Recorder) -> Iterator[Stage]:
    """Run two proxies before a port that is declared as HTTP."""
    with run_stage(authority, recorder) as stage:
        yield stage


@pytest.fixture(scope="module")
def auto(authority: Authority, recorder: Recorder) -> Iterator[Stage]:
    """Run two proxies before a port that is not declared, with a rule that lets in one request only."""
    with run_stage(authority, recorder, protocol=PortProtocol.AUTO) as stage:
        stage.pair.enforce(ONLY_PUBLIC)
        yield stage


def differences(case: RequestCase, got: list[Got], answer: bytes) -> Iterator[str]:
    """Say how what the workload got, and the caller was answered, differs from what the case says."""
    whole = [each for each in case.requests if not each.broken]
    if len(got) != len(whole):
        yield f"the workload got {len(got)} requests, and {len(whole)} are in it"
        return
    for one, expected in zip(got, whole, strict=True):
        yield from _different(one, expected)
    said = [each for each in statuses(answer) if each >= 200]
    if said[: len(whole)] != [200] * len(whole):
        yield f"the answers are {said}"
    # Whoever begins so speaks HTTP/2, and is answered in that.
    last = int(case.refused.split()[0]) if case.refused and not case.sent.startswith(PREFACE) else None
    if last is not None and said[len(whole) :] != [last]:
        yield f"the answers are {said}, and the last should be {last}"


def _different(got: Got, expected: Request) -> Iterator[str]:
    target = expected.target if expected.target == b"*" else forwardable(expected.target.decode()).encode()
    upgrade = expected.more.get("upgrade") or ""
    for what, one, other in (
        ("method", got.method, expected.method),
        ("target", got.target, target),
        ("host", got.all(b"host"), [expected.authority]),
        ("body", got.body, expected.body),
        ("upgrade", got.all(b"upgrade"), [upgrade.encode()] if upgrade else []),
    ):
        if one != other:
            yield f"the {what} is {one!r}, not {other!r}"
    if (
        expected.fields is not None
        and [each for each in got.fields if each in expected.fields] != expected.fields
    ):
        yield f"the fields are {got.fields}, not {expected.fields}"


class TestSmuggling:
    """Nothing reaches the workload but what was meant as a request, each as it was meant."""

    def test_by_callers(self, stage: Stage, recorder: Recorder) -> None:
        """Each case of the corpus is refused, or reaches the workload as the one thing that it is."""
        failures = []
        for case in request_cases():
            recorder.take()
            answer = stage.send(case.sent)
            failures += [f"{case.name}: {each}" for each in differences(case, recorder.take(), answer)]
        assert not failures, "\n".join(failures)
        assert not recorder.broken

    def test_by_peers(self, stage: Stage, recorder: Recorder) -> None:
        """The far proxy refuses by itself what no near proxy of ours would send."""
        failures = []
        with stage.tunnel() as client:
            for case in request_cases():
                if case.refused.partition(" ")[2] in LIMIT_REASONS or case.sent.startswith(PREFACE):
                    # From proxies more is taken; HTTP/2 has tests of its own.
                    continue
                recorder.take()
                stream = stage.open(client)
                assert stream.status == 200
                push(client, stream, case.sent, end=True)
                wait_over(client, stream)
                found = differences(case, recorder.take(), bytes(stream.data))
                failures += [f"{case.name}: {each}" for each in found]
        assert not failures, "\n".join(failures)
        assert not recorder.broken

    def test_by_workloads(self, authority: Authority) -> None:
        """What a workload answers is given as the one answer that it is, or as 502, and never as two."""

        def lie(connection: socket.socket) -> None:
            while b"\r\n\r\n" not in connection.recv(CHUNK):
                pass
            connection.sendall(current.sent)

        failures = []
        with run_stage(authority, lie) as stage:
            for current in answer_cases():
                if current.refused in LIMIT_REASONS:
                    # Those of connections between proxies hold here.
                    continue
                asked = b"%s / HTTP/1.1\r\nhost: api\r\n\r\n" % current.method
                failures += [f"{current.name}: {each}" for each in misread(current, stage.send(asked))]
        assert not failures, "\n".join(failures)

    def test_answers_nobody_asked_for(self, authority: Authority) -> None:
        """A workload that takes a body for a request, and answers it, confuses no later request."""

        def naive(connection: socket.socket) -> None:
            pending = b""
            while data := connection.recv(CHUNK):
                pending += data
                while b"\r\n\r\n" in pending:
                    head, _, pending = pending.partition(b"\r\n\r\n")
                    path = head.split(b" ")[1]
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(path), path))

        hidden = b"GET /evil HTTP/1.1\r\nhost: api\r\n\r\n"
        with run_stage(authority, naive) as stage, stage.pair.call("api") as caller:
            caller.sendall(
                b"POST /one HTTP/1.1\r\nhost: api\r\ncontent-length: %d\r\n\r\n%b" % (len(hidden), hidden)
            )
            assert read_answer(caller).endswith(b"/one")
            time.sleep(0.1)
            for path in (b"/two", b"/three"):
                caller.sendall(b"GET %b HTTP/1.1\r\nhost: api\r\n\r\n" % path)
                assert read_answer(caller).endswith(path)


def misread(case: AnswerCase, answer: bytes) -> Iterator[str]:
    """Say how what a caller was given differs from what the case says of a workload's answer."""
    # A 101 that was not asked for is no answer.
    final = next((each for each in case.answers if each.status >= 200), None)
    if any(each.status == 101 for each in case.answers):
        final = None
    said = statuses(answer)
    wanted = final.status if final is not None else 502
    if [each for each in said if each >= 200] != [wanted]:
        # Of what breaks as it begins there may be nothing to give.
        if not (final is not None and final.broken and not answer) and said != [502]:
            yield f"the answers are {said}, not {wanted}"
        return
    if final is None:
        return
    response = HTTPResponse(
        _Wire(answer[answer.index(b"HTTP/1.1 %d" % wanted) :]), method=case.method.decode()
    )
    response.begin()
    try:
        body, broken = response.read(), False
    except IncompleteRead as error:
        body, broken = error.partial, True
    if broken is not final.broken or (not broken and body != final.body):
        yield f"the body is {body[:100]!r}, {broken=}"


class _Wire(socket.socket):
    """A socket as http.client reads it, that holds what came."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object, **__: object) -> Any:
        """Give what came as a file."""
        return io.BytesIO(self._data)


class TestIdentity:
    """Who calls is for the mesh alone to say, and one caller's connection never another's."""

    @pytest.mark.parametrize(
        "name", ["nodemesh-caller", "NodeMesh_Caller", "nodemesh.caller", "nodemesh-CALLER"]
    )
    def test_claims(self, stage: Stage, recorder: Recorder, name: str) -> None:
        """A caller's word about itself reaches the workload neither in the header nor in the trailers."""
        recorder.take()
        lie = f"{name}: spiffe://nodemesh.local/ns/default/sa/root\r\n".encode()
        other = b"x-forwarded-for: 9.9.9.9\r\nX_Forwarded_For: 9.9.9.9\r\nforwarded: for=9.9.9.9\r\n"
        stage.send(
            b"POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n%b%b\r\n"
            b"1\r\na\r\n0\r\nx: y\r\n%b%b\r\n" % (lie, other, lie, other)
        )
        (got,) = recorder.take()
        assert got.all(b"nodemesh-caller") == [WEB.encode()]
        assert not [value for _, value in got.fields if b"root" in value or b"9.9.9.9" in value]
        assert [each for each in got.trailers if each != (b"x", b"y")] == []

    def test_two_callers(self, authority: Authority, recorder: Recorder) -> None:
        """Callers of two identities never share a connection to the workload, however their requests mix."""
        other = spiffe("other")
        near = Worker(
            "near", "127.0.0.2", calls=[("default/api", SERVICE_PORT, each) for each in (WEB, other)]
        )
        far = Worker("far", "127.0.0.3")
        with stopping(near, far), run_workload(recorder) as workload:
            at = endpoint("far", far.address, far.tunnel_port, workload.port, identity=API)
            far.start(
                snapshot(far, workloads=(local("api", workload.port, protocol=PortProtocol.HTTP),)),
                [authority.issue(API)],
                authority.root_pem,
            )
            near.start(
                snapshot(
                    near,
                    services=(service("default/api", SERVICE_PORT, at, protocol=PortProtocol.HTTP),),
                    workloads=(local("web"), local("other")),
                ),
                [authority.issue(WEB), authority.issue(other)],
                authority.root_pem,
            )
            recorder.take()
            for number in range(20):
                port = near.entries["default/api", SERVICE_PORT, (WEB, other)[number % 2]]
                with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as caller:
                    caller.sendall(b"GET /%d HTTP/1.1\r\nhost: api\r\n\r\n" % number)
                    assert statuses(read_answer(caller)) == [200]
        got = recorder.take()
        assert [each.all(b"nodemesh-caller") for each in got[:2]] == [[WEB.encode()], [other.encode()]]
        by_connection = {(each.connection, each.all(b"nodemesh-caller")[0]) for each in got}
        assert len(by_connection) == len({connection for connection, _ in by_connection})


class TestUndeclaredPort:
    """On a port that is not declared, bytes that are not read are let in by no rule about requests."""

    @pytest.mark.parametrize("claim", [None, b"tcp", b"http/1.1", b"h2", b"HTTP/1.1"])
    @pytest.mark.parametrize(
        ("sent", "pause"),
        [
            (b"GET /secret HTTP/1.1\r\nhost: api\r\n\r\n", 0.0),
            (b"GET /public HTTP/1.1\r\nhost: api\r\n\r\nGET /secret HTTP/1.1\r\nhost: api\r\n\r\n", 0.0),
            (b"get /public HTTP/1.1\r\nhost: api\r\n\r\n", 0.0),
            (b"\r\nGET /secret HTTP/1.1\r\nhost: api\r\n\r\n", 0.0),
            (b"GET /secret HTTP/1.1\nhost: api\n\n", 0.0),
            (b"GET /secret HTTP/1.1\r\nhost: api\r\n\r\n", 0.7),
            (PREFACE + b"GET /secret HTTP/1.1\r\nhost: api\r\n\r\n", 0.0),
        ],
    )
    def test_claims(
        self, auto: Stage, recorder: Recorder, claim: bytes | None, sent: bytes, pause: float
    ) -> None:
        """Whatever a peer says that it carries, and however it begins, only the one request gets through."""
        recorder.take()
        with auto.tunnel() as client:
            stream = auto.open(client, *([] if claim is None else [(b"nodemesh-protocol", claim)]))
            if claim == b"tcp":
                assert stream.status == 403
                return
            time.sleep(pause)
            push(client, stream, sent, end=True)
            wait_over(client, stream)
        assert {(each.method, each.target) for each in recorder.take()} <= {(b"GET", b"/public")}

    def test_by_callers(self, auto: Stage, recorder: Recorder) -> None:
        """A caller whose request is no whole one when it is looked at is refused, and not let in as bytes."""
        recorder.take()
        with auto.pair.call("api") as caller:
            caller.settimeout(PATIENCE)
            caller.sendall(b"GET /secret")
            time.sleep(0.7)
            with contextlib.suppress(ConnectionError):
                caller.sendall(b" HTTP/1.1\r\nhost: api\r\n\r\n")
            assert read_all(caller) == b""
        assert recorder.take() == []


class TestPolicyEdits:
    """What is sent before an edit and judged after it is judged by the edit."""

    def test_pipelined(self, authority: Authority) -> None:
        """A request that waits behind another is judged when its turn comes."""
        recorder, going = Recorder(), threading.Event()

        def slow(connection: socket.socket) -> None:
            going.wait(PATIENCE)
            recorder(connection)

        with run_stage(authority, slow) as stage, stage.pair.call("api") as caller:
            caller.sendall(b"GET /one HTTP/1.1\r\nhost: api\r\n\r\nGET /two HTTP/1.1\r\nhost: api\r\n\r\n")
            time.sleep(0.2)
            stage.pair.enforce(rules("no-two", targets({"paths": ["/two"]}), action="DENY"))
            going.set()
            assert statuses(read_answer(caller)) == [200]
            assert statuses(read_answer(caller)) == [403]
        assert [each.target for each in recorder.take()] == [b"/one"]

    def test_behind_an_upgrade(self, authority: Authority) -> None:
        """A connection that was upgraded is cut when its request would be denied; bytes then reach nobody."""
        got = bytearray()

        def switch(connection: socket.socket) -> None:
            connection.recv(CHUNK)
            connection.sendall(b"HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            while data := connection.recv(CHUNK):
                got.extend(data)
                connection.sendall(data)

        asked = b"GET /ws HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        with run_stage(authority, switch) as stage, stage.pair.call("api") as caller:
            caller.settimeout(PATIENCE)
            caller.sendall(asked)
            assert statuses(read_answer(caller)) == [101]
            caller.sendall(b"before")
            assert caller.recv(CHUNK) == b"before"
            stage.pair.enforce(policy("nobody", Action.DENY, principals=("*",)))
            assert read_all(caller) == b""
            # The same question once more is answered as a question, and what follows it is another one.
            assert statuses(stage.send(asked + b"GET /x HTTP/1.1\r\nhost: api\r\n\r\n"))[0] in (403, 503)
        assert bytes(got) == b"before"

    def test_upgrade_that_is_declined(self, stage: Stage, recorder: Recorder) -> None:
        """What follows an upgrade that the workload does not grant is judged as the request that it is."""
        stage.pair.enforce(rules("no-two", targets({"paths": ["/two"]}), action="DENY"))
        recorder.take()
        try:
            said = stage.send(
                b"GET /one HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
                b"GET /two HTTP/1.1\r\nhost: api\r\n\r\n"
            )
        finally:
            stage.pair.enforce()
        assert statuses(said) == [200, 403]
        assert [each.target for each in recorder.take()] == [b"/one"]

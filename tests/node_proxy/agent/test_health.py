from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from node_proxy.agent.health import Check, HealthChecks, HealthMachine, check_for
from node_proxy.config import HealthSection, WorkloadConfig
from node_proxy.proxy_header import LOCAL_HEADER
from registry.model.workload import Health
from tests.fakes.eventually import eventually

WELL, ILL = True, False


@pytest.mark.parametrize(
    ("seen", "verdicts"),
    [
        ([WELL], "h"),
        ([ILL], "u"),
        ([WELL, ILL], "hh"),
        ([WELL, ILL, ILL], "hhu"),
        ([WELL, ILL, WELL, ILL, WELL], "hhhhh"),
        ([WELL, ILL, ILL, WELL, WELL, WELL], "hhuuuh"),
        ([ILL, WELL, ILL, WELL, WELL, WELL], "uuuuuh"),
    ],
)
def test_thresholds(seen: list[bool], verdicts: str) -> None:
    """The first check decides; later a verdict needs a run of its length, which any other check breaks."""
    machine = HealthMachine(unhealthy_after=2, healthy_after=3)
    given = ""
    for well in seen:
        before = machine.health
        assert machine.observe(well=well) == (machine.health is not before)
        given += machine.health.value[0]
    assert given == verdicts


def test_unchecked_is_unhealthy() -> None:
    """Until it is known to serve, a workload gets no traffic."""
    machine = HealthMachine(unhealthy_after=2, healthy_after=1)
    assert machine.health is Health.UNHEALTHY
    assert not machine.known


def workload(**health: object) -> WorkloadConfig:
    """Give workload default/web with these health settings."""
    return WorkloadConfig(name="web", ports=(8080,), health=HealthSection(**health))  # type: ignore[arg-type]


class Script:
    """A check that answers as the test says; None hangs."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.at: list[float] = []

    async def check(self) -> str:
        """Give the next answer, the last one for ever."""
        self.at.append(trio.current_time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            await trio.sleep_forever()
        return answer or ""


def checks(script: Script, *, changed: list[float], **health: object) -> HealthChecks:
    """Check one workload by script; note when the verdict changed."""

    def check_of(_: WorkloadConfig) -> Check:
        return script.check

    return HealthChecks([workload(**health)], lambda: changed.append(trio.current_time()), check_of)


async def test_checks_go_on_at_their_interval(autojump_clock: MockClock) -> None:
    """A workload is checked at once and then at its interval; two failures in a row make it unhealthy."""
    changed: list[float] = []
    script = Script("", "", "refused", "refused", "")
    health = checks(script, changed=changed, interval=2.0)
    with trio.move_on_after(9):
        await health.run()
    assert script.at == [0, 2, 4, 6, 8]
    assert changed == [0, 6, 8]
    assert health.verdicts == {"default/web": Health.HEALTHY}


async def test_hanging_check_fails(autojump_clock: MockClock) -> None:
    """A check that does not answer in time has failed."""
    changed: list[float] = []
    health = checks(Script("", None, None), changed=changed, interval=2.0, timeout=1.0)
    with trio.move_on_after(7):
        await health.run()
    assert changed == [0, 6]
    assert health.verdicts == {"default/web": Health.UNHEALTHY}


async def test_wait_known(autojump_clock: MockClock) -> None:
    """Everything is known when each workload was checked once, whatever came out."""
    health = checks(Script(None), changed=[], timeout=1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(health.run)
        await health.wait_known()
        assert trio.current_time() == 1
        nursery.cancel_scope.cancel()


async def test_unchecked_workload_is_healthy() -> None:
    """With type none, or without workloads, nothing is waited for."""
    health = HealthChecks([workload(type="none")], lambda: None, check_for)
    await health.wait_known()
    assert health.verdicts == {"default/web": Health.HEALTHY}
    await health.run()


@asynccontextmanager
async def answering(reply: bytes, heard: bytearray | None = None) -> AsyncIterator[int]:
    """Serve one fixed reply to whatever is asked, and note that in `heard`; gives the port."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            if data := await stream.receive_some(4096):
                if heard is not None:
                    heard.extend(data)
                await stream.send_all(reply)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def closed_port() -> int:
    """Give a port of loopback where nobody listens."""
    with trio.socket.socket() as probe:
        await probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def outcome(port: int, **health: object) -> str:
    """Run the real check once."""
    check = check_for(workload(port=port, **health))
    assert check is not None
    with trio.fail_after(10):
        return await check()


async def test_tcp_check() -> None:
    """Whoever accepts is well; whoever refuses is not, and the reason says where."""
    async with answering(b"") as port:
        assert await outcome(port, type="tcp") == ""
    port = await closed_port()
    assert f"cannot connect to 127.0.0.1:{port}" in await outcome(port, type="tcp")


@pytest.mark.parametrize(
    ("reply", "well"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", False),
        (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", False),
        (b"nonsense\r\n\r\n", False),
        (b"", False),
    ],
)
async def test_http_check(reply: bytes, well: bool) -> None:
    """An HTTP answer below 400 is well; an error, nonsense or silence is not."""
    async with answering(reply) as port:
        assert (await outcome(port, type="http", path="/health") == "") is well


async def test_http_check_of_a_closed_port() -> None:
    """Nobody there is said with the URL."""
    port = await closed_port()
    assert f"http://127.0.0.1:{port}/" in await outcome(port, type="http")


async def greeted(port: int, **health: object) -> str:
    """Run the real check of a workload that wants the PROXY header on this port."""
    check = check_for(
        WorkloadConfig(
            name="web",
            ports=(port,),
            proxy_protocol="v2",
            health=HealthSection(**health),  # type: ignore[arg-type]
        )
    )
    assert check is not None
    with trio.fail_after(10):
        return await check()


class TestProxyProtocol:
    """A workload that wants the PROXY header gets one of its health checks too."""

    async def test_tcp(self) -> None:
        """A TCP check says that it is the proxy's own."""
        heard = bytearray()
        async with answering(b"", heard) as port:
            assert await greeted(port, type="tcp") == ""
            await eventually(lambda: heard == LOCAL_HEADER)
        assert "cannot connect" in await greeted(await closed_port(), type="tcp")

    @pytest.mark.parametrize(
        ("reply", "complaint"),
        [
            (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
            (b"HTTP/1.0 399 Odd\r\n\r\n", ""),
            (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "/ok answers 503"),
            (b"HTTP/1.1 2000 No\r\n\r\n", "answers no HTTP"),
            (b"nonsense, and much of it", "answers no HTTP"),
            (b"", "answers no HTTP"),
        ],
    )
    async def test_http(self, reply: bytes, complaint: str) -> None:
        """An HTTP check says so before its request, and reads the status."""
        heard = bytearray()
        async with answering(reply, heard) as port:
            said = await greeted(port, type="http", path="/ok")
            assert said.endswith(complaint)
            assert bool(said) is bool(complaint)
            expected = b"GET /ok HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % port
            assert heard == LOCAL_HEADER + expected

    async def test_http_of_a_closed_port(self) -> None:
        """Nobody there is said with the URL."""
        port = await closed_port()
        assert f"http://127.0.0.1:{port}/" in await greeted(port, type="http")

    async def test_a_port_of_its_own(self) -> None:
        """A port for health alone is none that the proxy passes on to, and wants no header."""
        heard = bytearray()
        async with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", heard) as port:
            check = check_for(
                WorkloadConfig(
                    name="web", ports=(1,), proxy_protocol="v2", health=HealthSection(type="http", port=port)
                )
            )
            assert check is not None
            assert await check() == ""
        assert heard.startswith(b"GET / ")

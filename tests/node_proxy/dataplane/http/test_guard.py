"""Requests before a workload's port: which are let in, and what becomes of the others."""

import pytest
import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.http.channel import ChannelBroken
from node_proxy.dataplane.http.sniff import Sniffed
from node_proxy.dataplane.reason import parse_reason
from registry.model.decision import Outcome
from registry.model.service import PortProtocol
from tests.fakes.eventually import eventually
from tests.node_proxy.dataplane.http.gate import Gate, field, open_gate, status
from tests.registry.rules.policies import policy, targets

NO_ADMIN = policy("no-admin", targets({"paths": ["/admin", "/admin/*"]}), action="DENY")
PUBLIC = policy("public", targets({"paths": ["/public/*"], "methods": ["GET"]}))


def seen(gate: Gate) -> list[bytes]:
    """Give the request lines that have reached the workload."""
    return [request.partition(b"\r\n")[0] for request in gate.workload.requests]


class TestJudgement:
    async def test_allowed(self) -> None:
        """A request that is allowed reaches the workload, and its answer the caller."""
        async with open_gate() as gate:
            gate.enforce(PUBLIC)
            caller = await gate.call()
            assert (await caller.ask(b"/public/x")).endswith(b"ok")
            assert seen(gate) == [b"GET /public/x HTTP/1.1"]

    async def test_denied(self) -> None:
        """A request that is denied is answered with 403 and the policy's name, and goes no further."""
        async with open_gate() as gate:
            gate.enforce(NO_ADMIN)
            caller = await gate.call()
            answer = await caller.ask(b"/admin/users")
            assert status(answer) == 403
            reason = parse_reason((field(answer, b"nodemesh-reason") or b"").decode())
            assert (reason.code, reason.policy) == ("denied", "default/no-admin")
            assert seen(gate) == []
            (line,) = gate.stage.logged("request refused")
            assert (line["path"], line["policy"], line["id"]) == (
                "/admin/users",
                "default/no-admin",
                reason.decision,
            )

    async def test_the_connection_lives_on(self) -> None:
        """After a denial the same connection carries what is allowed."""
        async with open_gate() as gate:
            gate.enforce(NO_ADMIN)
            caller = await gate.call()
            body = b"x" * 1000
            assert status(await caller.ask(b"/admin", method=b"POST", body=body)) == 403
            assert status(await caller.ask(b"/x")) == 200

    async def test_policies_of_now(self) -> None:
        """Each request is judged by the policies in force when it comes, on the same connection."""
        async with open_gate() as gate:
            caller = await gate.call()
            assert status(await caller.ask(b"/admin")) == 200
            gate.enforce(NO_ADMIN)
            assert status(await caller.ask(b"/admin")) == 403
            gate.enforce()
            assert status(await caller.ask(b"/admin")) == 200

    async def test_decisions_are_kept(self) -> None:
        """Decisions of requests are in the decision log, many alike as one, with the last one's path."""
        async with open_gate() as gate:
            gate.enforce(NO_ADMIN)
            caller = await gate.call()
            gate.context.decisions.take(0.0)
            for path in (b"/admin/a?token=1", b"/admin/b", b"/x", b"/y"):
                await caller.ask(path)
            denied, permitted = sorted(gate.context.decisions.take(0.0), key=lambda each: each.outcome.value)
            assert (denied.outcome, denied.count, denied.policy) == (Outcome.DENIED, 2, "default/no-admin")
            assert denied.request is not None
            assert (denied.request.path, denied.request.host) == ("/admin/b", "api")
            assert (permitted.outcome, permitted.count) == (Outcome.PERMITTED, 2)

    async def test_a_query_is_not_kept(self) -> None:
        """Queries, which may hold secrets, are not in the decision log."""
        async with open_gate() as gate:
            gate.enforce(NO_ADMIN)
            caller = await gate.call()
            await caller.ask(b"/admin/a?token=1")
            assert "token" not in str(gate.context.decisions.take(0.0))

    async def test_one_line_a_second(self) -> None:
        """However often a caller is refused, one line of a sort is written each second; counters say all."""
        async with open_gate() as gate:
            gate.enforce(NO_ADMIN)
            caller = await gate.call()
            for _ in range(20):
                await caller.ask(b"/admin")
            lines = gate.stage.logged("request refused")
            assert 1 <= len(lines) <= 3
            assert gate.stage.counted(telemetry.REQUESTS_REFUSED, reason="denied") == 20
            assert gate.stage.counted(telemetry.REQUESTS, side="destination", code="403") == 20

    async def test_audit(self) -> None:
        """AUDIT policies count the requests that match them, and not the connection."""
        async with open_gate() as gate:
            gate.enforce(policy("watch", targets({"paths": ["/a"]}), action="AUDIT"))
            caller = await gate.call()
            await caller.ask(b"/a")
            await caller.ask(b"/b")
            assert gate.stage.counted(telemetry.AUDITED, policy="default/watch") == 1

    async def test_headers(self) -> None:
        """A header that comes several times is let in only by values that are all allowed."""
        rule = {"when": [{"key": "request.headers[x-role]", "values": ["user"]}]}
        async with open_gate() as gate:
            gate.enforce(policy("users", rule))
            caller = await gate.call()
            assert status(await caller.ask(b"/", b"X-Role: user")) == 200
            assert status(await caller.ask(b"/", b"X-Role: user", b"x-role: admin")) == 403
            assert status(await caller.ask(b"/", b"x_role: user")) == 403

    async def test_closed_namespace(self) -> None:
        """A policy that never parsed closes its namespace to connections, not to requests on open ones."""
        async with open_gate() as gate:
            caller = await gate.call()
            assert status(await caller.ask(b"/")) == 200
            gate.close_namespace()
            assert status(await caller.ask(b"/")) == 200


# Ways to say /admin, or to hide what is asked for, and what the workload must see if it is let in.
HIDDEN = [
    b"/admin",
    b"//admin",
    b"/./admin",
    b"/x/../admin",
    b"/%61dmin",
    b"/%61%64%6D%69%6e",
    b"/x/%2e%2e/admin",
    b"/x%2f..%2fadmin",
    b"/x%5c..%5cadmin",
    b"/x/..%2fadmin",
    b"/x/..;/admin",
    b"/x/..;a=b/admin",
    b"/admin/",
    b"/admin?x=/public",
    b"/admin%3Fx/../../admin",
    b"http://api/admin",
    b"HTTP://API/admin",
    b"http://api/x/../admin",
    b"/pub/x%2F..%2F..%2Fadmin%2Fy%5C..%5C..%5Cpub",
]


@pytest.mark.parametrize("path", HIDDEN)
async def test_nothing_to_hide_behind(path: bytes) -> None:
    """However a path is written, what it leads to is refused, and the workload sees nothing of it."""
    async with open_gate() as gate:
        gate.enforce(NO_ADMIN)
        caller = await gate.call()
        assert status(await caller.ask(path)) == 403
        assert seen(gate) == []


@pytest.mark.parametrize(
    "path",
    [
        b"/public/../admin",
        b"/public/%2e%2e/admin",
        b"/public/..%2fadmin",
        b"/public/..%5Cadmin",
        b"/public/..;/admin",
        b"/public%2fx",
        b"/PUBLIC/x",
        b"/public",
        b"/x?/public/x",
        b"*",
    ],
)
async def test_nothing_to_pretend(path: bytes) -> None:
    """What is not surely in the place that is allowed is not let in."""
    async with open_gate() as gate:
        gate.enforce(PUBLIC)
        caller = await gate.call()
        method = b"OPTIONS" if path == b"*" else b"GET"
        assert status(await caller.ask(path, method=method)) == 403
        assert seen(gate) == []


@pytest.mark.parametrize(
    ("host", "asked", "expected"),
    [
        (b"api", b"/", 403),
        (b"API", b"/", 403),
        (b"api:80", b"/", 403),
        (b"api.", b"/", 403),
        (b"other", b"/", 200),
        (b"other", b"http://api/", 400),
        (b"api", b"http://api/", 403),
    ],
)
async def test_hosts(host: bytes, asked: bytes, expected: int) -> None:
    """A host is refused however it is written; a target that names another than Host is no request."""
    async with open_gate() as gate:
        gate.enforce(policy("no-api", targets({"hosts": ["api"]}), action="DENY"))
        caller = await gate.call()
        await caller.channel.send(b"GET %s HTTP/1.1\r\nhost: %s\r\n\r\n" % (asked, host))
        assert status(await caller.answer()) == expected


SMUGGLED = [
    b"POST /x HTTP/1.1\r\nhost: api\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
    b"0\r\n\r\nGET /admin",
    b"POST /x HTTP/1.1\r\nhost: api\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    b"POST /x HTTP/1.1\r\nhost: api\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    b"POST /x HTTP/1.1\r\nhost: api\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST /x HTTP/1.1\r\nhost: api\r\nx: a\r\n transfer-encoding: chunked\r\n\r\n",
    b"GET /x HTTP/1.1\r\nhost: api\r\nhost: other\r\n\r\n",
    b"GET /x HTTP/1.1\r\n\r\n",
    b"GET /x HTTP/1.1\r\nhost: api\nx: y\r\n\r\n",
    b"GET /x\r\nhost: api\r\n\r\n",
]


@pytest.mark.parametrize("request_", SMUGGLED)
async def test_smuggling(request_: bytes) -> None:
    """What two servers may read as different requests is none: 400, logged, counted, nothing passed on."""
    async with open_gate() as gate:
        gate.enforce(NO_ADMIN)
        caller = await gate.call()
        await caller.channel.send(request_)
        assert status(await caller.answer()) in (400, 501, 505)
        await caller.ended()
        assert seen(gate) == []
        (line,) = gate.stage.logged("request refused")
        assert gate.stage.counted(telemetry.REQUESTS_REFUSED, reason=line["reason"]) == 1


async def test_a_body_that_breaks() -> None:
    """A chunk that is none breaks the request: the workload never takes it for whole."""
    async with open_gate() as gate:
        caller = await gate.call()
        await caller.send(b"POST", b"/x", b"transfer-encoding: chunked")
        await caller.channel.send(b"3\r\nabc\r\nZ\r\n")
        assert status(await caller.answer()) == 400
        await caller.ended()
        (line,) = gate.stage.logged("request refused")
        assert line["status"] == 400


class TestEdits:
    async def test_a_request_under_way(self) -> None:
        """A request that a policy denies while it waits for its answer is answered with 403."""
        async with open_gate() as gate:
            gate.workload.script = lambda _request: b""
            caller = await gate.call()
            await caller.send(b"GET", b"/admin")
            await eventually(lambda: bool(gate.workload.requests))
            gate.enforce(NO_ADMIN)
            assert status(await caller.answer()) == 403

    async def test_an_answer_under_way(self) -> None:
        """An answer that has begun is broken off when a policy denies its request; others are not."""
        begun = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nsome"
        async with open_gate() as gate:
            gate.workload.script = lambda _request: begun
            denied, other = await gate.call(), await gate.call()
            await denied.send(b"GET", b"/admin")
            await other.send(b"GET", b"/x")
            await denied.until(b"some")
            await other.until(b"some")
            gate.enforce(NO_ADMIN)
            with pytest.raises(ChannelBroken):
                await denied.ended()
            assert other.channel.receive_nowait() is None

    async def test_the_connection(self) -> None:
        """A connection over which nothing can be allowed any more is cut."""
        async with open_gate() as gate:
            caller = await gate.call()
            assert status(await caller.ask(b"/")) == 200
            gate.enforce(policy("nobody", {}, action="DENY"))
            with pytest.raises(ChannelBroken):
                await caller.ended()
            assert gate.stage.logged("stream cut")

    async def test_before_it_is_served(self) -> None:
        """A policy that changes between the judgement of a connection and its first request is obeyed."""
        async with open_gate() as gate:
            caller = await gate.call()
            gate.enforce(policy("nobody", {}, action="DENY"))
            with pytest.raises(ChannelBroken):
                await caller.ask(b"/")

    async def test_upgraded(self) -> None:
        """What has become of a request by an upgrade is cut when a policy denies the request."""
        switched = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: chat\r\nconnection: upgrade\r\n\r\n"
        async with open_gate() as gate:
            gate.workload.script = lambda _request: switched
            caller = await gate.call()
            await caller.send(b"GET", b"/admin", b"connection: upgrade", b"upgrade: chat")
            assert status(await caller.answer()) == 101
            gate.enforce(NO_ADMIN)
            with pytest.raises(ChannelBroken):
                await caller.ended()


class TestSpoken:
    async def test_word_does_not_count_on_http(self) -> None:
        """On a port that is declared as HTTP a stream that is said to be TCP is read all the same."""
        async with open_gate() as gate:
            gate.enforce(NO_ADMIN)
            caller = await gate.call(spoken=Sniffed.TCP)
            assert status(await caller.ask(b"/admin")) == 403

    async def test_auto_is_judged(self) -> None:
        """On an auto port what turns out to be HTTP is judged by its requests, whoever says nothing of it."""
        async with open_gate(PortProtocol.AUTO) as gate:
            gate.enforce(PUBLIC)
            caller = await gate.call(spoken=None)
            await caller.channel.send(b"GET /pub")
            await caller.channel.send(b"lic/x HTTP/1.1\r\nhost: api\r\n\r\n")
            assert status(await caller.answer()) == 200
            assert status(await caller.ask(b"/x")) == 403

    @pytest.mark.parametrize("spoken", [None, Sniffed.TCP])
    async def test_auto_bytes(self, spoken: Sniffed | None) -> None:
        """On an auto port bytes that are no HTTP are carried, where no rule is about requests."""
        async with open_gate(PortProtocol.AUTO) as gate:
            gate.workload.serve = echo
            caller = await gate.call(spoken=spoken)
            await caller.channel.send(b"\x00\x01hello")
            assert await caller.until(b"hello") == b"\x00\x01hello"
            caller.channel.end()
            assert await caller.ended() == b""

    async def test_auto_silence(self) -> None:
        """On an auto port a caller that waits for the workload to speak first gets to hear it."""

        async def greet(stream: trio.SocketStream) -> None:
            await stream.send_all(b"220 hello\r\n")

        async with open_gate(PortProtocol.AUTO) as gate:
            gate.workload.serve = greet
            caller = await gate.call(spoken=None)
            assert await caller.until(b"\r\n") == b"220 hello\r\n"

    async def test_auto_bytes_are_let_in_by_no_rule_about_requests(self) -> None:
        """On an auto port bytes that are no HTTP are refused where only requests are allowed."""
        async with open_gate(PortProtocol.AUTO) as gate:
            gate.enforce(PUBLIC)
            caller = await gate.call(spoken=None)
            await caller.channel.send(b"\x00\x01hello")
            with pytest.raises(ChannelBroken):
                await caller.ended()
            assert gate.stage.logged("stream refused")

    async def test_a_rest_of_a_request_line_is_no_request(self) -> None:
        """On an auto port what begins as a request and stops there is taken for bytes, which fails closed."""
        async with open_gate(PortProtocol.AUTO) as gate:
            gate.enforce(NO_ADMIN)
            caller = await gate.call(spoken=None)
            await caller.channel.send(b"GET /x")
            with pytest.raises(ChannelBroken):
                await caller.ended()


async def echo(stream: trio.SocketStream) -> None:
    """Send back what comes."""
    async with stream:
        async for data in stream:
            await stream.send_all(data)

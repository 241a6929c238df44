"""Requests that are one too many."""

from tests.node_proxy.dataplane.http.gate import backend, field, open_gate, status
from tests.registry.rules.policies import policy, targets


class TestLimits:
    LIMITED = backend(rateLimits=[{"name": "few", "requests": 2, "per": "1h"}])

    async def test_too_many(self) -> None:
        """Beyond a limit requests are answered with 429, and told when to come again."""
        async with open_gate() as gate:
            gate.enforce(backend=(self.LIMITED,))
            caller = await gate.call()
            answers = [await caller.ask(b"/") for _ in range(3)]
            assert [status(answer) for answer in answers] == [200, 200, 429]
            assert [field(answer, b"ratelimit-remaining") for answer in answers] == [b"1", b"0", b"0"]
            assert field(answers[2], b"nodemesh-reason") == b"rate_limited"
            assert int(field(answers[2], b"retry-after") or 0) > 0
            assert len(gate.workload.requests) == 2

    async def test_what_is_denied_does_not_count(self) -> None:
        """Requests that policies deny take nothing of a limit."""
        async with open_gate() as gate:
            gate.enforce(policy("no", targets({"paths": ["/no"]}), action="DENY"), backend=(self.LIMITED,))
            caller = await gate.call()
            for _ in range(5):
                assert status(await caller.ask(b"/no")) == 403
            assert status(await caller.ask(b"/")) == 200

    async def test_by_route(self) -> None:
        """A limit of a route counts what the caller's proxy says has come by it, and believes nobody else."""
        limited = backend(rateLimits=[{"name": "few", "requests": 1, "per": "1h", "route": "slow"}])
        async with open_gate() as gate:
            gate.enforce(backend=(limited,))
            gate.permit_plaintext(backend=(limited,))
            caller, stranger = await gate.call(), await gate.call(source=None)
            route = b"nodemesh-route: default/slow"
            assert [status(await caller.ask(b"/", route)) for _ in range(2)] == [200, 429]
            assert status(await caller.ask(b"/")) == 200
            assert [status(await stranger.ask(b"/", route)) for _ in range(2)] == [200, 200]

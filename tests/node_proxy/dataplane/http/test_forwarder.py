import pytest
import trio
import trio.testing

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.http.exchange import ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.kept_body import MAX_KEPT
from node_proxy.dataplane.http.memory_channel import memory_channels
from node_proxy.dataplane.http.message import Version
from node_proxy.dataplane.http.stream_opening import StreamUnanswered
from node_proxy.errors import DialError, TunnelRefused
from node_proxy.tunnel.handlers import TUNNEL_CLOSED
from registry.model.backend_policy import (
    Abort,
    BackendTimeouts,
    ConnectionLimits,
    Delay,
    Fault,
    Retries,
    RetryReason,
)
from registry.model.gateway import (
    BackendReference,
    Header,
    HeaderModifier,
    RequestMirror,
)
from registry.model.http_route import (
    FilterType,
    HTTPBackendRef,
    HTTPRouteFilter,
    HTTPRouteMatch,
    HTTPRouteRule,
    PathMatch,
    PathModifier,
    PathModifierType,
    RequestRedirect,
    Timeouts,
    UrlRewrite,
)
from registry.model.service import PortProtocol
from tests.fakes.exchanges import Answer, AskedExchange, Endpoints, Script, ScriptedBody
from tests.integration.snapshots import backend_policy, http_route
from tests.node_proxy.dataplane.http.forwarding import forwarding, nodes, service, state

ONE = state(service("api", *nodes("api-0")))
TWO = state(service("api", *nodes("api-0", "api-1")))
UNREACHED = DialError("10.77.0.2", 15008, "refused")
BROKEN = ExchangeBroken("reset")
to_api = HTTPBackendRef(name="api", port=80)


class TestPassing:
    async def test_answer(self) -> None:
        """Head, body and trailers of the answer come to the caller as the endpoint gave them."""
        body = ScriptedBody(b"one", late=[b"two"], trailers=[(b"digest", b"1")])
        async with forwarding(ONE, Endpoints(api_0=[Answer(201, body, [(b"etag", b"x")])])) as at:
            exchange = await at.get()
        assert (exchange.status, exchange.received, exchange.trailers) == (
            201,
            b"onetwo",
            [(b"digest", b"1")],
        )
        assert exchange.field("etag") == "x"

    async def test_request_is_written_anew(self) -> None:
        """The path goes in its one spelling; what only the mesh may say does not go."""
        fields = [(b"accept", b"*/*"), (b"nodemesh-caller", b"evil"), (b"nodemesh-attempt", b"7")]
        async with forwarding(ONE, Endpoints(api_0=[Answer()])) as at:
            await at.ask(AskedExchange("GET", "/a/../b%2fc?x=%2f", fields=fields))
            (head,) = at.endpoints.heads
        assert (head.target, head.fields) == (b"/b%2Fc?x=%2f", [(b"accept", b"*/*")])

    async def test_small_body(self) -> None:
        """A body of known length is sent whole with its head."""
        async with forwarding(ONE, Endpoints(api_0=[Answer()])) as at:
            body = ScriptedBody(b"he", late=[b"llo"])
            exchange = await at.ask(AskedExchange("POST", "/", body=body, length=5))
            assert at.endpoints.bodies == [b"hello"]
        assert exchange.status == 200

    async def test_streamed_body(self) -> None:
        """A body of unknown length is passed while the answer may begin already."""
        answer = Answer(reads_body=False, body=ScriptedBody(late=[b"early"]))
        async with forwarding(ONE, Endpoints(api_0=[answer])) as at:
            body = ScriptedBody(late=[b"a", b"b"])
            exchange = await at.ask(AskedExchange("POST", "/", body=body, length=None))
        assert (exchange.status, exchange.received) == (200, b"early")

    async def test_large_body(self) -> None:
        """A body too large to be kept arrives whole."""
        piece = b"x" * 50_000
        async with forwarding(ONE, Endpoints(api_0=[Answer()])) as at:
            body = ScriptedBody(piece, piece, late=[piece, piece])
            await at.ask(AskedExchange("PUT", "/", body=body, length=200_000))
            assert at.endpoints.bodies == [piece * 4]

    async def test_informational(self) -> None:
        """1xx are passed on, but for the 100 that is the caller's body's own affair."""
        async with forwarding(ONE, Endpoints(api_0=[Answer(informational=(103, 100))])) as at:
            exchange = await at.get()
        assert (exchange.informed, exchange.status) == ([103], 200)

    async def test_expectation_waits_for_the_endpoint(self) -> None:
        """A body that its caller holds back is asked for when the endpoint says 100, and not before."""
        async with forwarding(
            ONE, Endpoints(api_0=[Answer(417, reads_body=False), Answer(200, informational=(100,))])
        ) as at:
            for status, sent in ((417, b""), (200, b"x")):
                body = ScriptedBody(late=[b"x"])
                exchange = AskedExchange("PUT", "/", body=body, length=1, expects_continue=True)
                await at.ask(exchange)
                assert (exchange.status, at.endpoints.bodies[-1]) == (status, sent)

    async def test_upgrade(self) -> None:
        """After 101 bytes pass both ways until both have ended."""
        caller, near = memory_channels()
        far, workload = memory_channels()
        async with forwarding(ONE, Endpoints(api_0=[Answer(101, switched=far)])) as at:
            exchange = AskedExchange(upgrade=b"websocket")
            exchange.switched = near
            async with trio.open_nursery() as nursery:
                nursery.start_soon(at.ask, exchange)
                await caller.send(b"ping")
                assert await workload.receive() == b"ping"
                await workload.send(b"pong")
                assert await caller.receive() == b"pong"
                caller.end()
                assert await workload.receive() == b""
                workload.end()
        assert at.endpoints.heads[0].upgrade == b"websocket"

    @pytest.mark.parametrize(
        ("protocol", "callers", "upstream"),
        [
            (PortProtocol.HTTP, Version.HTTP_2, Version.HTTP_11),
            (PortProtocol.HTTP2, Version.HTTP_11, Version.HTTP_2),
            (PortProtocol.GRPC, Version.HTTP_2, Version.HTTP_2),
            (PortProtocol.AUTO, Version.HTTP_2, Version.HTTP_2),
            (PortProtocol.AUTO, Version.HTTP_10, Version.HTTP_11),
        ],
    )
    async def test_version(self, protocol: PortProtocol, callers: Version, upstream: Version) -> None:
        """The port decides what its workloads are spoken to in; where it does not, the caller does."""
        what = state(service("api", *nodes("api-0"), protocol=protocol))
        async with forwarding(what, Endpoints(api_0=[Answer()])) as at:
            await at.ask(AskedExchange(version=callers))
            assert at.endpoints.keys[0].version is upstream

    async def test_counted(self) -> None:
        """Requests are counted by service, route and code."""
        async with forwarding(ONE, Endpoints(api_0=[Answer(204), Answer(500), Answer(204)])) as at:
            for _ in range(3):
                await at.get()
            counted = {
                code: at.at.counted(telemetry.REQUESTS, side="source", service="default/api", code=code)
                for code in ("204", "500")
            }
        assert counted == {"204": 2, "500": 1}


class TestFailures:
    async def test_nobody(self) -> None:
        """A service without endpoints is 503, and says why."""
        async with forwarding(state(service("api")), Endpoints()) as at:
            exchange = await at.get()
        assert (exchange.status, exchange.field("nodemesh-reason")) == (503, "no_endpoint")

    async def test_unreached_goes_to_another(self) -> None:
        """An endpoint that cannot be reached is passed over, whatever the method."""
        async with forwarding(TWO, Endpoints(api_0=[UNREACHED], api_1=[Answer()])) as at:
            for _ in range(4):
                exchange = AskedExchange("POST", "/", body=ScriptedBody(b"x"), length=1)
                assert (await at.ask(exchange)).status == 200
            assert at.endpoints.bodies == [b"x"] * 4

    @pytest.mark.parametrize(("method", "status"), [("GET", 200), ("PUT", 200), ("POST", 502)])
    async def test_reset_is_tried_again_where_that_is_safe(self, method: str, status: int) -> None:
        """A connection that breaks under a request is tried again for idempotent methods only."""
        async with forwarding(TWO, Endpoints(api_0=[BROKEN, Answer()], api_1=[BROKEN, Answer()])) as at:
            exchange = await at.ask(AskedExchange(method))
            assert len(at.endpoints.asked) == (3 if status == 200 else 1)
        assert exchange.status == status

    async def test_attempt_is_told(self) -> None:
        """Every try but the first says which it is."""
        async with forwarding(ONE, Endpoints(api_0=[BROKEN, BROKEN, Answer()])) as at:
            await at.get()
            told = [dict(head.fields).get(b"nodemesh-attempt") for head in at.endpoints.heads]
        assert told == [None, b"2", b"3"]

    async def test_another_endpoint_first(self) -> None:
        """An endpoint that has failed is asked again only when no other is left."""
        both: list[Script] = [BROKEN, BROKEN, Answer()]
        async with forwarding(TWO, Endpoints(api_0=both, api_1=both)) as at:
            await at.get()
            assert len(set(at.endpoints.asked[:2])) == 2

    async def test_untouched_is_tried_again_for_every_method(self) -> None:
        """What the other side surely did not look at may be sent again."""
        untouched = ExchangeBroken("refused", untouched=True)
        async with forwarding(TWO, Endpoints(api_0=[untouched, Answer()], api_1=[untouched, Answer()])) as at:
            exchange = await at.ask(AskedExchange("POST", body=ScriptedBody(b"x"), length=1))
            assert at.endpoints.bodies == [b"x"] * 3
        assert exchange.status == 200

    @pytest.mark.parametrize(
        "said",
        [
            Answer(503, fields=[(b"nodemesh-reason", b"dial_failed")]),
            Answer(fields=[(b"grpc-status", b"14"), (b"nodemesh-reason", b"dial_failed")]),
        ],
    )
    async def test_workload_that_is_gone(self, said: Answer) -> None:
        """A proxy that has lost its workload has sent it nothing: another endpoint takes any request."""
        endpoints = Endpoints(api_0=[said] * 20, api_1=[Answer()] * 20)
        fields = [(b"content-type", b"application/grpc")] if said.status == 200 else []
        async with forwarding(TWO, endpoints) as at:
            answers = [await at.ask(AskedExchange("POST", "/", fields=list(fields))) for _ in range(20)]
        assert {(each.status, each.field("nodemesh-reason")) for each in answers} == {(200, None)}
        assert endpoints.asked.count("api-0") == 1, "it is passed over from then on"

    async def test_body_that_was_not_kept_is_never_sent_twice(self) -> None:
        """A body too large to be kept makes its failure final, also for idempotent methods."""
        async with forwarding(TWO, Endpoints(api_0=[BROKEN], api_1=[BROKEN])) as at:
            body = ScriptedBody(b"x" * MAX_KEPT, b"y", late=[b"z"])
            exchange = await at.ask(AskedExchange("PUT", body=body, length=None))
            assert len(at.endpoints.bodies) == 1
        assert (exchange.status, exchange.field("nodemesh-reason")) == (502, "upstream_reset")

    async def test_gateway_errors(self) -> None:
        """503 of one endpoint is not the caller's when another answers."""
        async with forwarding(TWO, Endpoints(api_0=[Answer(503)], api_1=[Answer(200)])) as at:
            assert [(await at.get()).status for _ in range(3)] == [200] * 3

    async def test_last_answer_is_given(self) -> None:
        """When all fail alike, the caller gets what the last one said."""
        answer = [Answer(503, ScriptedBody(b"no"), [(b"x-by", b"workload")])] * 3
        async with forwarding(TWO, Endpoints(api_0=answer, api_1=answer)) as at:
            exchange = await at.get()
            assert len(at.endpoints.heads) == 3
        assert (exchange.status, exchange.field("x-by")) == (503, "workload")

    @pytest.mark.parametrize(
        ("refusal", "status", "reason"),
        [
            (TunnelRefused(403, "denied; policy=default/p; id=0a1b2c3d-7"), 403, "denied; policy=default/p"),
            (TunnelRefused(403, "RBAC"), 403, "denied"),
            (TunnelRefused(503, "dial_failed"), 503, "dial_failed"),
            (TunnelRefused(503, "upstream connect error"), 503, "no_endpoint"),
            (TunnelRefused(404, "no_workload"), 503, "no_workload"),
        ],
    )
    async def test_refused_connect(self, refusal: TunnelRefused, status: int, reason: str) -> None:
        """What a peer refuses is an answer: a denial with its reason, all else 503."""
        async with forwarding(ONE, Endpoints(api_0=[refusal])) as at:
            exchange = await at.get()
        assert exchange.status == status
        assert (exchange.field("nodemesh-reason") or "").startswith(reason)

    async def test_denial_is_the_same_everywhere(self) -> None:
        """A denial is not tried elsewhere."""
        refusal = TunnelRefused(403, "denied")
        async with forwarding(TWO, Endpoints(api_0=[refusal], api_1=[refusal])) as at:
            await at.get()
            assert len(at.endpoints.asked) == 1

    async def test_draining_peer_is_asked_again(self) -> None:
        """A peer that restarts looked at nothing: it may well accept on a new tunnel."""
        async with forwarding(ONE, Endpoints(api_0=[StreamUnanswered(TUNNEL_CLOSED), Answer()])) as at:
            assert (await at.get()).status == 200
            assert at.endpoints.asked == ["api-0", "api-0"]

    async def test_no_http(self) -> None:
        """An answer that is no HTTP is 502, and of none of the workload's bytes."""
        async with forwarding(ONE, Endpoints(api_0=[MessageRefused(502, "bad_head", "x")])) as at:
            exchange = await at.ask(AskedExchange("POST"))
        assert (exchange.status, exchange.field("nodemesh-reason")) == (502, "upstream_invalid")

    async def test_answer_that_breaks(self) -> None:
        """An answer that breaks in the middle is reset, so that nobody takes it for whole."""
        answer = Answer(200, ScriptedBody(b"half", late=[BROKEN]))
        async with forwarding(ONE, Endpoints(api_0=[answer])) as at:
            exchange = await at.get()
        assert (exchange.received, exchange.ended, bool(exchange.broken)) == (b"half", False, True)

    @pytest.mark.parametrize("length", [4, None])
    async def test_callers_body_that_is_no_http(self, length: int | None) -> None:
        """A body that breaks the rules is answered with what is wrong, and nothing more of it is sent."""
        refused = MessageRefused(400, "bad_chunk", "a chunk without a size")
        async with forwarding(ONE, Endpoints(api_0=[Answer()])) as at:
            body = ScriptedBody(late=[b"x", refused])
            exchange = await at.ask(AskedExchange("POST", body=body, length=length))
        assert (exchange.status, exchange.field("nodemesh-reason")) == (400, "bad_request")

    async def test_caller_that_leaves(self) -> None:
        """A caller that takes no more ends the request, and is counted without a code."""
        async with forwarding(ONE, Endpoints(api_0=[Answer(body=ScriptedBody(b"x"))])) as at:
            exchange = AskedExchange()
            exchange.gone = True
            await at.ask(exchange)
            assert not exchange.ended

    async def test_cancellation(self) -> None:
        """A request that is cancelled while its endpoint is silent leaves nothing behind."""
        async with forwarding(ONE, Endpoints(api_0=[None])) as at:
            with trio.move_on_after(0.05):
                await at.get()


class TestTimes:
    @pytest.mark.parametrize("timeouts", [BackendTimeouts(request="2s"), BackendTimeouts(per_try="2s")])
    async def test_silent_endpoint(
        self, timeouts: BackendTimeouts, autojump_clock: trio.testing.MockClock
    ) -> None:
        """Whoever does not answer in time is 504."""
        what = state(service("api", *nodes("api-0")), policies=[backend_policy(timeouts=timeouts)])
        async with forwarding(what, Endpoints(api_0=[None])) as at:
            start = trio.current_time()
            exchange = await at.get()
            assert trio.current_time() - start == pytest.approx(2, abs=0.1)
        assert (exchange.status, exchange.field("nodemesh-reason")) == (504, "timeout")

    async def test_next_endpoint_after_a_try(self, autojump_clock: trio.testing.MockClock) -> None:
        """A try that takes too long is followed by another elsewhere, within the whole time."""
        retries = Retries(on=(RetryReason.TIMEOUT,))
        what = state(
            service("api", *nodes("api-0", "api-1")),
            policies=[backend_policy(timeouts=BackendTimeouts(per_try="1s"), retries=retries)],
        )
        async with forwarding(what, Endpoints(api_0=[None], api_1=[Answer()])) as at:
            assert {(await at.get()).status for _ in range(3)} == {200}

    async def test_route_goes_before_the_backend_policy(self, autojump_clock: trio.testing.MockClock) -> None:
        """A route's timeout takes the place of the service's."""
        rule = HTTPRouteRule(backend_refs=(to_api,), timeouts=Timeouts(request="500ms"))
        what = state(
            service("api", *nodes("api-0")),
            policies=[backend_policy(timeouts=BackendTimeouts(request="9s"))],
            routes=[http_route(rule)],
        )
        async with forwarding(what, Endpoints(api_0=[None])) as at:
            start = trio.current_time()
            assert (await at.get()).status == 504
            assert trio.current_time() - start == pytest.approx(0.5, abs=0.05)

    @pytest.mark.parametrize(
        ("said", "sent"),
        [
            ([(b"nodemesh-timeout", b"1500")], (b"nodemesh-timeout", b"1500")),
            (
                [(b"content-type", b"application/grpc"), (b"grpc-timeout", b"1500m")],
                (b"grpc-timeout", b"1500000u"),
            ),
        ],
    )
    async def test_callers_deadline(
        self,
        said: list[tuple[bytes, bytes]],
        sent: tuple[bytes, bytes],
        autojump_clock: trio.testing.MockClock,
    ) -> None:
        """The caller's own deadline holds, goes on with what is left of it, and ejects nobody."""
        async with forwarding(TWO, Endpoints(api_0=[None], api_1=[None])) as at:
            start = trio.current_time()
            exchange = await at.ask(AskedExchange(fields=said))
            assert trio.current_time() - start == pytest.approx(1.5, abs=0.05)
            assert at.endpoints.heads[0].fields[-1] == sent
            assert not at.at.logged("endpoint ejected")
        assert exchange.field("nodemesh-reason") == "timeout"

    async def test_silence_within_an_answer(self, autojump_clock: trio.testing.MockClock) -> None:
        """An answer whose body stops is reset after the idle time, however long it may take in all."""
        what = state(
            service("api", *nodes("api-0")), policies=[backend_policy(timeouts=BackendTimeouts(idle="1s"))]
        )
        async with forwarding(what, Endpoints(api_0=[Answer(body=Slow(0.8, 0.8, 5.0))])) as at:
            exchange = await at.get()
        assert exchange.received == b"..."
        assert not exchange.ended


class Slow(ScriptedBody):
    """A body whose pieces come after these pauses."""

    def __init__(self, *pauses: float) -> None:
        super().__init__(b".", late=[b"."] * len(pauses))
        self._pauses = list(pauses)

    async def receive(self) -> bytes:
        """Wait, as long as nobody resets the exchange; the fake has no such thing."""
        if self._pauses:
            pause = self._pauses.pop(0)
            if pause > 1:
                await trio.sleep(1.0)
                raise ExchangeBroken("reset", by_peer=False)
            await trio.sleep(pause)
        return await super().receive()


class TestRoutes:
    async def test_no_rule(self) -> None:
        """With a route attached, what no rule matches is 404."""
        rule = HTTPRouteRule(matches=(HTTPRouteMatch(path=PathMatch(value="/a")),), backend_refs=(to_api,))
        what = state(service("api", *nodes("api-0")), routes=[http_route(rule)])
        async with forwarding(what, Endpoints(api_0=[Answer()])) as at:
            assert (await at.get("/a")).status == 200
            exchange = await at.get("/b")
            counted = at.at.counted(telemetry.REQUESTS, route="default/api", code="200")
        assert (exchange.status, exchange.field("nodemesh-reason"), counted) == (404, "no_route", 1)

    async def test_unknown_backend(self) -> None:
        """A backend that the mesh does not know is 500, as Gateway API has it."""
        rule = HTTPRouteRule(backend_refs=(HTTPBackendRef(name="gone", port=80),))
        what = state(service("api", *nodes("api-0")), routes=[http_route(rule)])
        async with forwarding(what, Endpoints(api_0=[Answer()])) as at:
            exchange = await at.get()
        assert (exchange.status, exchange.field("nodemesh-reason")) == (500, "invalid_backend")

    async def test_filters(self) -> None:
        """Headers, host and path are changed on the way there, headers on the way back; framing never."""
        change = HeaderModifier(
            set=(Header(name="X-A", value="1"), Header(name="Content-Length", value="9")), remove=("x-b",)
        )
        rule = HTTPRouteRule(
            backend_refs=(to_api,),
            filters=(
                HTTPRouteFilter(type=FilterType.REQUEST_HEADER_MODIFIER, request_header_modifier=change),
                HTTPRouteFilter(type=FilterType.RESPONSE_HEADER_MODIFIER, response_header_modifier=change),
                HTTPRouteFilter(
                    type=FilterType.URL_REWRITE,
                    url_rewrite=UrlRewrite(
                        hostname="other",
                        path=PathModifier(type=PathModifierType.REPLACE_FULL_PATH, replace_full_path="/new"),
                    ),
                ),
            ),
        )
        what = state(service("api", *nodes("api-0")), routes=[http_route(rule)])
        async with forwarding(what, Endpoints(api_0=[Answer(fields=[(b"x-b", b"2")])])) as at:
            exchange = await at.ask(AskedExchange("GET", "/old?q=1", fields=[(b"x-b", b"2")]))
            (head,) = at.endpoints.heads
        assert (head.authority, head.target) == (b"other", b"/new?q=1")
        assert head.fields == [(b"x-a", b"1"), (b"nodemesh-route", b"default/api")]
        assert exchange.answers[0].fields == [(b"x-a", b"1")]

    async def test_redirect(self) -> None:
        """A redirect is answered at once."""
        redirect = RequestRedirect(hostname="elsewhere.example", status_code=301)
        filters = (HTTPRouteFilter(type=FilterType.REQUEST_REDIRECT, request_redirect=redirect),)
        what = state(service("api", *nodes("api-0")), routes=[http_route(HTTPRouteRule(filters=filters))])
        async with forwarding(what, Endpoints(api_0=[Answer()])) as at:
            exchange = await at.get("/x?y")
            assert at.endpoints.asked == []
        assert exchange.status == 301
        assert (exchange.field("location") or "").startswith("http://elsewhere.example")

    async def test_mirror(self) -> None:
        """A copy goes to the mirror, whose answer nobody hears, and which the request does not wait for."""
        mirror = RequestMirror(backend_ref=BackendReference(name="copy", port=80))
        filters = (HTTPRouteFilter(type=FilterType.REQUEST_MIRROR, request_mirror=mirror),)
        rule = HTTPRouteRule(filters=filters, backend_refs=(to_api,))
        what = state(
            service("api", *nodes("api-0")), service("copy", *nodes("copy-0")), routes=[http_route(rule)]
        )
        endpoints = Endpoints(api_0=[Answer(200)], copy_0=[Answer(500, delay=0.05)])
        async with forwarding(what, endpoints) as at:
            exchange = await at.ask(AskedExchange("POST", "/", body=ScriptedBody(b"x"), length=1))
            await trio.sleep(0.2)
            assert sorted(at.endpoints.asked) == ["api-0", "copy-0"]
            assert at.endpoints.bodies == [b"x", b"x"]
            assert at.at.counted(telemetry.MIRRORED, service="default/copy", outcome="answered") == 1
        assert exchange.status == 200

    async def test_hanging_mirror(self, autojump_clock: trio.testing.MockClock) -> None:
        """A mirror that never answers is given up."""
        mirror = RequestMirror(backend_ref=BackendReference(name="copy", port=80))
        filters = (HTTPRouteFilter(type=FilterType.REQUEST_MIRROR, request_mirror=mirror),)
        rule = HTTPRouteRule(filters=filters, backend_refs=(to_api,))
        what = state(
            service("api", *nodes("api-0")), service("copy", *nodes("copy-0")), routes=[http_route(rule)]
        )
        async with forwarding(what, Endpoints(api_0=[Answer()], copy_0=[None])) as at:
            assert (await at.get()).status == 200
            await trio.sleep(60)
            assert at.at.counted(telemetry.MIRRORED, service="default/copy", outcome="failed") == 1


class TestPolicy:
    async def test_abort(self) -> None:
        """A fault answers in the endpoint's place, and says so."""
        fault = Fault(name="teapot", abort=Abort(percent=100, http_status=418))
        what = state(service("api", *nodes("api-0")), policies=[backend_policy(faults=(fault,))])
        async with forwarding(what, Endpoints(api_0=[Answer()])) as at:
            exchange = await at.get()
            assert at.endpoints.asked == []
            assert at.at.counted(telemetry.FAULTS_INJECTED, fault="teapot", kind="abort") == 1
        assert (exchange.status, exchange.field("nodemesh-reason")) == (418, "fault")

    async def test_delay(self, autojump_clock: trio.testing.MockClock) -> None:
        """A delayed request is answered later, or not when its time is over."""
        fault = Fault(name="slow", delay=Delay(percent=100, duration="3s"))
        what = state(service("api", *nodes("api-0")), policies=[backend_policy(faults=(fault,))])
        async with forwarding(what, Endpoints(api_0=[Answer()])) as at:
            start = trio.current_time()
            assert (await at.get()).status == 200
            assert trio.current_time() - start == pytest.approx(3)
            exchange = await at.ask(AskedExchange(fields=[(b"nodemesh-timeout", b"500")]))
            assert exchange.status == 504
            assert trio.current_time() - start == pytest.approx(3.5)

    async def test_too_many_requests(self) -> None:
        """A service that is asked as much as it may be refuses the rest at once."""
        limits = ConnectionLimits(requests=1)
        what = state(service("api", *nodes("api-0")), policies=[backend_policy(connection_limits=limits)])
        async with forwarding(what, Endpoints(api_0=[None, Answer()])) as at:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(at.get)
                await trio.testing.wait_all_tasks_blocked()
                exchange = await at.get()
                nursery.cancel_scope.cancel()
            assert (exchange.status, exchange.field("nodemesh-reason")) == (503, "overflow")
            assert (await at.get()).status == 200

    async def test_hedge(self, autojump_clock: trio.testing.MockClock) -> None:
        """A second try beside one that takes long: the quicker answer counts, the other is given up."""
        retries = Retries(hedge_after="100ms")
        what = state(service("api", *nodes("api-0", "api-1")), policies=[backend_policy(retries=retries)])
        async with forwarding(what, Endpoints(api_0=[None], api_1=[Answer(200)])) as at:
            start = trio.current_time()
            assert {(await at.get()).status for _ in range(3)} == {200}
            assert trio.current_time() - start < 1
            assert at.at.counted(telemetry.HEDGES) > 0

    async def test_hedges_within_the_budget(self, autojump_clock: trio.testing.MockClock) -> None:
        """Both silent: no third try, and the caller's time ends it."""
        retries = Retries(hedge_after="100ms")
        what = state(
            service("api", *nodes("api-0", "api-1", "api-2")), policies=[backend_policy(retries=retries)]
        )
        async with forwarding(what, Endpoints(api_0=[None], api_1=[None], api_2=[None])) as at:
            exchange = await at.ask(AskedExchange(fields=[(b"nodemesh-timeout", b"1000")]))
            assert len(at.endpoints.asked) == 2
        assert exchange.status == 504

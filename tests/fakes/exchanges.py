"""A caller's request and endpoints that answer it, in the test's hand: no connection, no bytes."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import trio

from node_proxy.dataplane.caller import Caller
from node_proxy.dataplane.http.channel import Channel
from node_proxy.dataplane.http.exchange import Body, ClientExchange, ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.message import Fields, RequestHead, ResponseHead, Version
from node_proxy.dataplane.http.upstream_key import UpstreamKey
from node_proxy.dataplane.http.upstreams import Upstream, Upstreams
from node_proxy.dataplane.tables import Route

NOTHING: Fields = []


class ScriptedBody:
    """A body of these pieces; `late` ones come only to who waits. An exception breaks it."""

    def __init__(
        self,
        *pieces: bytes | Exception,
        late: Sequence[bytes | Exception] = (),
        trailers: Fields | None = None,
    ) -> None:
        self._there = deque(pieces)
        self._late = deque(late)
        self.trailers: Fields = trailers or []

    async def receive(self) -> bytes:
        """Give the next piece."""
        await trio.lowlevel.checkpoint()
        if not self._there and self._late:
            return self._give(self._late.popleft())
        return self._give(self._there.popleft() if self._there else b"")

    def receive_nowait(self) -> bytes | None:
        """Give the next piece unless it is late."""
        if self._there:
            return self._give(self._there.popleft())
        return None if self._late else b""

    @staticmethod
    def _give(piece: bytes | Exception) -> bytes:
        if isinstance(piece, Exception):
            raise piece
        return piece


class AskedExchange:
    """A request of a caller, and what it was answered."""

    def __init__(
        self,
        method: str = "GET",
        target: str = "/",
        *,
        fields: Fields | None = None,
        body: ScriptedBody | None = None,
        length: int | None = 0,
        version: Version = Version.HTTP_11,
        expects_continue: bool = False,
        upgrade: bytes = b"",
    ) -> None:
        self.head = RequestHead(
            method.encode(),
            target.encode(),
            b"api",
            fields or [],
            version,
            length=length,
            expects_continue=expects_continue,
            upgrade=upgrade,
        )
        self.body: Body = body or ScriptedBody()
        self.informed: list[int] = []
        self.answers: list[ResponseHead] = []
        self.received = b""
        self.trailers: Fields = []
        self.ended = False
        self.broken = ""
        # The caller takes no more from here on.
        self.gone = False
        # The caller's end of the connection after an upgrade.
        self.switched: Channel | None = None

    async def inform(self, head: ResponseHead) -> None:
        """Note an informational answer."""
        self.informed.append(head.status)

    async def respond(self, head: ResponseHead, body: bytes = b"", *, end: bool = False) -> None:
        """Note the answer; a second one is a bug."""
        assert not self.answers
        if self.gone:
            raise ExchangeBroken("the caller is gone")
        self.answers.append(head)
        self.received += body
        self.ended = end
        await trio.lowlevel.checkpoint()

    async def send(self, data: bytes) -> None:
        """Note more of it."""
        assert self.answers
        assert not self.ended
        if self.gone or self.broken:
            raise ExchangeBroken("the caller is gone")
        self.received += data
        await trio.lowlevel.checkpoint()

    async def end(self, trailers: Fields = NOTHING) -> None:
        """Note the end."""
        assert not self.ended
        self.ended = True
        self.trailers = list(trailers)

    async def upgrade(self, head: ResponseHead) -> Channel:
        """Give our end of the connection."""
        self.answers.append(head)
        assert self.switched is not None
        return self.switched

    def reset(self, why: str) -> None:
        """Note a reset of what has not ended."""
        if not self.ended:
            self.broken = why

    @property
    def responded(self) -> bool:
        """Whether there is an answer."""
        return bool(self.answers)

    async def wait_gone(self) -> None:
        """Wait for ever."""
        await trio.sleep_forever()

    @property
    def status(self) -> int:
        """The status of the whole answer."""
        assert self.ended, self.broken or "no whole answer"
        return self.answers[0].status

    def field(self, name: str) -> str | None:
        """A field of the answer."""
        return next((v.decode() for n, v in self.answers[0].fields if n == name.encode()), None)


@dataclass
class Answer:
    """An endpoint's answer, after `delay` seconds and informational ones."""

    status: int = 200
    body: ScriptedBody = field(default_factory=ScriptedBody)
    fields: Fields = field(default_factory=list)
    delay: float = 0.0
    informational: tuple[int, ...] = ()
    # Whether the request's body is read to its end before the answer.
    reads_body: bool = True
    switched: Channel | None = None


# An endpoint answers, breaks the exchange, or (other errors) cannot be reached at all. None is silence.
Script = Answer | Exception | None


class _Client:
    def __init__(self, endpoint: "Endpoints", script: Script, body: bytes, *, end: bool) -> None:
        self._script = script
        self._heads = deque(script.informational if isinstance(script, Answer) else ())
        self._broken = trio.Event()
        self._why = ""
        self._whole = trio.Event()
        self._endpoints = endpoint
        self.number = len(endpoint.bodies)
        endpoint.bodies.append(body)
        self.body: Body = script.body if isinstance(script, Answer) else ScriptedBody()
        if end:
            self._whole.set()

    async def send(self, data: bytes) -> None:
        if self._why:
            raise ExchangeBroken(self._why)
        self._endpoints.bodies[self.number] += data
        await trio.lowlevel.checkpoint()

    async def end(self, _trailers: Fields = NOTHING) -> None:
        self._whole.set()

    async def response(self) -> ResponseHead:
        script = self._script
        if self._heads:
            return ResponseHead(self._heads.popleft())
        if isinstance(script, Exception):
            raise script
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_broken, nursery.cancel_scope)
            if script is None:
                await trio.sleep_forever()
            else:
                if script.reads_body:
                    await self._whole.wait()
                await trio.sleep(script.delay)
            nursery.cancel_scope.cancel()
        if self._why or script is None:
            raise ExchangeBroken(self._why, by_peer=False)
        return ResponseHead(script.status, list(script.fields))

    async def _wait_broken(self, scope: trio.CancelScope) -> None:
        await self._broken.wait()
        scope.cancel()

    def upgraded(self) -> Channel:
        assert isinstance(self._script, Answer)
        assert self._script.switched is not None
        return self._script.switched

    def reset(self, why: str) -> None:
        self._why = self._why or why
        self._broken.set()


class _Connection:
    def __init__(self, endpoints: "Endpoints", script: Script) -> None:
        self._endpoints = endpoints
        self._script = script

    async def request(self, head: RequestHead, body: bytes = b"", *, end: bool) -> ClientExchange:
        await trio.lowlevel.checkpoint()
        self._endpoints.heads.append(head)
        return _Client(self._endpoints, self._script, body, end=end)


class Endpoints:
    """Stands in for the pool: what each endpoint, by its node, does with the requests it gets, in turn.

    The last one of a script goes on for ever.
    """

    def __init__(self, **scripts: Sequence[Script]) -> None:
        self._scripts = {node.replace("_", "-"): deque(script) for node, script in scripts.items()}
        self.asked: list[str] = []
        self.keys: list[UpstreamKey] = []
        self.heads: list[RequestHead] = []
        self.bodies: list[bytes] = []
        self.taken: defaultdict[str, int] = defaultdict(int)

    def as_pool(self) -> Upstreams:
        """Give it where a pool is wanted."""
        return cast("Upstreams", self)

    def take_nowait(self, _key: UpstreamKey) -> Upstream | None:
        """Give nothing: each request asks for a connection."""
        return None

    async def take(self, key: UpstreamKey, _caller: Caller, _route: Route) -> Upstream:
        """Reach the endpoint, or not."""
        await trio.lowlevel.checkpoint()
        node = key.endpoint.node
        self.asked.append(node)
        self.keys.append(key)
        script = self._scripts[node]
        doing = script.popleft() if len(script) > 1 else script[0]
        if isinstance(doing, Exception) and not isinstance(doing, ExchangeBroken | MessageRefused):
            raise doing
        self.taken[node] += 1
        upstream = cast("Upstream", type("Taken", (), {})())
        upstream.key = key
        upstream.connection = cast("object", _Connection(self, doing))  # type: ignore[assignment]
        return upstream

    def give_back(self, upstream: Upstream, *, requests: int | None = None) -> None:
        """Note that it is back."""
        self.taken[upstream.key.endpoint.node] -= 1

"""A guarded port: callers in memory, and behind it a workload on loopback that does what a test says."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from node_proxy.dataplane.admission import Admission, Call
from node_proxy.dataplane.http.channel import Channel
from node_proxy.dataplane.http.memory_channel import memory_channels
from node_proxy.dataplane.http.sniff import Sniffed
from node_proxy.dataplane.http.timers import Timers
from node_proxy.dataplane.limiter import Limiter
from node_proxy.dataplane.open_streams import Admitted
from node_proxy.dataplane.workload_dial import Origin
from node_proxy.snapshot import LocalWorkload, Snapshot
from registry.model.authorization import AuthorizationPolicy
from registry.model.backend_policy import BackendPolicy
from registry.model.identity import Identity, parse_identity
from registry.model.parse import from_builtins
from registry.model.peer_authentication import MtlsMode
from registry.model.service import PortProtocol
from tests.fakes.context import ADDRESS, Scene, scene, snapshot
from tests.fakes.guards import guard_of
from tests.integration.certificates import spiffe
from tests.integration.snapshots import local

WEB = parse_identity(spiffe("web"))
CALLER = "10.77.0.9"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
PATIENCE = 10.0

Script = Callable[[bytes], bytes | None]


class Workload:
    """Answers each request, whose body has a declared length, by `script`; None ends the connection."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.connections: list[trio.SocketStream] = []
        self.first_ended = trio.Event()
        self.script: Script = lambda _request: OK
        # Whether it ends the connection after an answer.
        self.closes = False
        # Instead of the script, for connections that are no HTTP/1.
        self.serve: Callable[[trio.SocketStream], object] | None = None

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve a connection."""
        self.connections.append(stream)
        if self.serve is not None:
            await self.serve(stream)  # type: ignore[misc]
            return
        async with stream:
            try:
                await self._handle(stream)
            except trio.BrokenResourceError:
                return
            finally:
                self.first_ended.set()

    async def ended(self) -> bool:
        """Wait until the proxy has ended the first connection; gives whether it did."""
        with trio.move_on_after(PATIENCE):
            await self.first_ended.wait()
        return self.first_ended.is_set()

    async def _handle(self, stream: trio.SocketStream) -> None:
        pending = b""
        while True:
            while b"\r\n\r\n" not in pending:
                if not (data := await stream.receive_some()):
                    return
                pending += data
            head, _, pending = pending.partition(b"\r\n\r\n")
            length = int(field(head, b"content-length") or 0)
            while len(pending) < length:
                if not (data := await stream.receive_some()):
                    return
                pending += data
            body, pending = pending[:length], pending[length:]
            self.requests.append(head + b"\r\n\r\n" + body)
            answer = self.script(self.requests[-1])
            if answer is None:
                return
            await stream.send_all(answer)
            if self.closes:
                return


class CallerEnd:
    """A caller's end of a connection."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._pending = b""

    async def ask(self, path: bytes, *fields: bytes, method: bytes = b"GET", body: bytes = b"") -> bytes:
        """Send a request, and give its whole answer."""
        more = (b"content-length: %d" % len(body),) if body else ()
        await self.send(method, path, *fields, *more, body=body)
        return await self.answer()

    async def send(self, method: bytes, path: bytes, *fields: bytes, body: bytes = b"") -> None:
        """Send a request to the host ``api``."""
        lines = (b"%s %s HTTP/1.1" % (method, path), b"host: api", *fields, b"", body)
        await self.channel.send(b"\r\n".join(lines))

    async def answer(self) -> bytes:
        """Read one answer: its head, and a body of a declared length."""
        head = await self.until(b"\r\n\r\n")
        length = int(field(head, b"content-length") or 0)
        while len(self._pending) < length:
            self._pending += await self._receive()
        body, self._pending = self._pending[:length], self._pending[length:]
        return head + body

    async def until(self, end: bytes) -> bytes:
        """Read up to and with `end`."""
        while end not in self._pending:
            self._pending += await self._receive()
        found, _, self._pending = self._pending.partition(end)
        return found + end

    async def ended(self) -> bytes:
        """Read to the end; gives what came."""
        with trio.fail_after(PATIENCE):
            while data := await self.channel.receive():
                self._pending += data
        return self._pending

    async def _receive(self) -> bytes:
        with trio.fail_after(PATIENCE):
            data = await self.channel.receive()
        assert data, f"the connection ended after {self._pending!r}"
        return data


class Gate:
    """The destination's side of one workload's port."""

    def __init__(
        self,
        nursery: trio.Nursery,
        workload: Workload,
        listener: trio.SocketListener,
        protocol: PortProtocol,
    ) -> None:
        self.nursery = nursery
        self.workload = workload
        self.listener = listener
        self.port: int = listener.socket.getsockname()[1]
        self.protocol = protocol
        self.stage: Scene = scene(self._state(1), clock=trio.current_time)
        self.context = self.stage.context
        self.admission = Admission(self.context, Limiter(self.context))
        self.timers = Timers(self.context.clock, self.context.crashed)
        self.guard = guard_of(self.context, self.admission, timers=self.timers)
        self._revision = 1
        self.listening = trio.CancelScope()

    def enforce(self, *policies: AuthorizationPolicy, backend: tuple[BackendPolicy, ...] = ()) -> None:
        """Put policies in force, as a worker does."""
        self._revision += 1
        self.stage.enforce(self._state(self._revision, policies, backend))
        self.admission.streams.judge_again()

    def permit_plaintext(self, *, backend: tuple[BackendPolicy, ...] = ()) -> None:
        """Let in callers that prove nothing."""
        self._revision += 1
        state = self._state(self._revision, backend=backend)
        self.stage.enforce(msgspec.structs.replace(state, mtls_mode=MtlsMode.PERMISSIVE))

    async def listen(self) -> None:
        """Let the workload take connections."""
        with self.listening:
            await trio.serve_listeners(self.workload.handle, [self.listener], handler_nursery=self.nursery)

    async def stop_listening(self) -> None:
        """Let the workload take no connection any more."""
        self.listening.cancel()
        await self.listener.aclose()

    def close_namespace(self) -> None:
        """Let a policy be there that never parsed."""
        self._revision += 1
        broken = {"default": "authorizationpolicies/default/broken"}
        self.stage.enforce(msgspec.structs.replace(self._state(self._revision), closed_namespaces=broken))
        self.admission.streams.judge_again()

    async def call(
        self, *, source: Identity | None = WEB, spoken: Sniffed | None = Sniffed.HTTP_1
    ) -> CallerEnd:
        """Open a connection that is admitted."""
        near, far = memory_channels()
        admitted = self.admission.admit(
            source=source,
            port=self.port,
            serving=None,
            call=Call(source_ip=CALLER, destination_ip=ADDRESS),
            spoken=spoken,
        )
        assert isinstance(admitted, Admitted)
        origin = Origin((CALLER, 4711), (ADDRESS, self.port))
        dialled = await self.guard.dial(admitted, origin)
        self.nursery.start_soon(self.context.contain, self.guard.serve, far, admitted, origin, dialled)
        return CallerEnd(near)

    def _state(
        self,
        revision: int,
        policies: tuple[AuthorizationPolicy, ...] = (),
        backend: tuple[BackendPolicy, ...] = (),
    ) -> Snapshot:
        ours: LocalWorkload = msgspec.structs.replace(
            local("api", self.port, protocol=self.protocol), services=("default/api",)
        )
        made = snapshot(revision=revision, workloads=(ours,), policies=policies)
        return msgspec.structs.replace(made, backend_policies=backend)


@asynccontextmanager
async def open_gate(protocol: PortProtocol = PortProtocol.HTTP) -> AsyncIterator[Gate]:
    """Give a guarded port; a bug in what serves it fails the test."""
    workload = Workload()
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        gate = Gate(nursery, workload, listener, protocol)
        nursery.start_soon(gate.listen)
        nursery.start_soon(gate.context.reactor.run)
        nursery.start_soon(gate.timers.run)
        yield gate
        assert not gate.stage.logged("connection crashed")
        assert not gate.context.reactor.crashes
        nursery.cancel_scope.cancel()


def field(head: bytes, name: bytes) -> bytes | None:
    """Give the value of the one field of a name; None when there is none."""
    values = [
        line.partition(b":")[2].strip()
        for line in head.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        if line.partition(b":")[0].lower() == name
    ]
    assert len(values) <= 1, values
    return values[0] if values else None


def status(answer: bytes) -> int:
    """Give an answer's status."""
    return int(answer.split(b" ", 2)[1])


def backend(**spec: Any) -> BackendPolicy:
    """Give a BackendPolicy for the service of the workload."""
    resource = from_builtins(
        {
            "apiVersion": "nodemesh/v1",
            "kind": "BackendPolicy",
            "metadata": {"name": "api"},
            "spec": {"targetRefs": [{"kind": "Service", "name": "api"}]} | spec,
        },
        where="test",
    )
    assert isinstance(resource, BackendPolicy)
    return resource

"""A worker process: ``python -m node_proxy.dataplane --control-fd N``.

The agent starts it with one end of a socketpair and the listening sockets, tells it what to enforce, and
hears what it counts. Without the agent it drains: it serves the streams it has and takes no new ones,
so that nothing is left behind and the next agent can bind its ports.
"""

import argparse
import gc
import random
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

import structlog
import trio

from node_proxy.buckets import Buckets
from node_proxy.control import (
    ControlChannel,
    CredentialsUpdate,
    Decisions,
    Demand,
    Drain,
    ExplicitListener,
    FromWorker,
    ListenerKind,
    Quotas,
    Ready,
    SnapshotUpdate,
    ToWorker,
    WorkerConfig,
)
from node_proxy.dataplane import telemetry
from node_proxy.dataplane.accept import Take, original_destination, serve_listener
from node_proxy.dataplane.admission import Admission
from node_proxy.dataplane.callers import Callers, UnknownCaller
from node_proxy.dataplane.cgroups import Cgroups
from node_proxy.dataplane.context import Enforced, WorkerContext
from node_proxy.dataplane.destination import Destination
from node_proxy.dataplane.direct import Direct
from node_proxy.dataplane.handshake import Handshake
from node_proxy.dataplane.http.guard import Guard
from node_proxy.dataplane.http.timers import Timers
from node_proxy.dataplane.http_connect import HttpConnect
from node_proxy.dataplane.inbound import Inbound
from node_proxy.dataplane.limiter import Limiter
from node_proxy.dataplane.outbound import Outbound
from node_proxy.dataplane.outbound_connection import Caller
from node_proxy.dataplane.owner_lookup import OwnerLookup
from node_proxy.dataplane.passthrough import Passage
from node_proxy.dataplane.plaintext import Plaintext
from node_proxy.dataplane.proxy_way import ProxyWay
from node_proxy.dataplane.router import MeshNames, Router
from node_proxy.dataplane.socks5 import Socks5
from node_proxy.dataplane.tables import Tables
from node_proxy.dataplane.way import Way
from node_proxy.errors import LocalProtocolError
from node_proxy.logs import configure_logging
from node_proxy.shares import Kind, Share, Shares
from node_proxy.tunnel.tls import TlsContexts

REPORT_INTERVAL = 1.0
# On SIGTERM; systemd's default patience is 90 s, an operator's shorter.
STOP_DEADLINE = 5.0
# When the agent is gone: long enough for most transfers, short enough for its successor to start clean.
ORPHAN_DEADLINE = 30.0
DRAIN_CHECK_INTERVAL = 0.1
# From GOAWAY until HTTP connections between two requests are closed: callers' proxies have moved by then.
IDLE_GRACE = 1.0


class Worker:
    """Everything one worker runs, in one nursery."""

    def __init__(self, channel: ControlChannel[ToWorker], config: WorkerConfig) -> None:
        self._channel = channel
        self._config = config
        self._accepting = trio.CancelScope()
        self._draining = trio.Event()
        self._drain_deadline = STOP_DEADLINE
        self._quotas = Quotas(shares={})

    async def run(self) -> None:
        """Serve until told to drain and drained, or cancelled."""
        place = self._config.place
        context = self._context = WorkerContext(
            node=self._config.node,
            trust_domain=self._config.trust_domain,
            mark=self._config.mark,
            clock=time.monotonic,
            log=structlog.get_logger(),
            rng=random.Random(),  # noqa: S311 - spreads load, guards nothing
            enforced=await self._first_state(),
            buckets=self._find_buckets(),
            index=place.index if place else 0,
            workers=place.workers if place else 1,
        )
        self._limiter = Limiter(context)
        self._limiter.learn(self._quotas)
        async with trio.open_nursery() as nursery:
            self._admission = Admission(context, self._limiter)
            self._timers = Timers(context.clock, context.crashed)
            self._guard = Guard(context, self._admission, timers=self._timers, draining=self._draining.is_set)
            self._inbound = Inbound(context, nursery, self._admission, self._guard)
            self._outbound = Outbound(context, nursery, self._admission, self._guard, self._timers)
            self._plaintext = Plaintext(context, nursery, self._admission, self._guard)
            self._nursery = nursery
            self._direct = Direct(context, nursery)
            self._router = self._make_router(self._direct)
            self._ways: list[ProxyWay] = []
            self._shares = self._find_shares()
            cgroups = Cgroups(context.clock, lambda: context.enforced.tables.owners.rules)
            self._callers = Callers(
                context,
                OwnerLookup(context, cgroups),
                default=self._config.default_workload,
                refuse_unknown=self._config.refuse_unknown_callers,
            )
            nursery.start_soon(context.reactor.run)
            nursery.start_soon(self._outbound.run)
            nursery.start_soon(self._serve_control)
            nursery.start_soon(self._report)
            nursery.start_soon(self._admission.streams.cut_after_grace)
            nursery.start_soon(self._limiter.pacer.run)
            nursery.start_soon(self._timers.run)
            nursery.start_soon(self._drain_on_signal)
            nursery.start_soon(self._accept)
            await self._ready()
            await self._draining.wait()
            await self._finish()
            nursery.cancel_scope.cancel()

    async def _first_state(self) -> Enforced:
        tables: Tables | None = None
        contexts: TlsContexts | None = None
        while tables is None or contexts is None:
            batch = await self._channel.receive_batch()
            if batch is None:
                raise LocalProtocolError("the agent left before it gave a snapshot and credentials")
            for message in batch:
                match message:
                    case SnapshotUpdate(snapshot=snapshot):
                        tables = Tables(snapshot)
                    case CredentialsUpdate():
                        contexts = self._contexts(message)
                    case Drain(deadline=deadline):
                        # The agent was told to stop while this process started; it may come with the state.
                        self._drain(deadline)
                    case Quotas():
                        self._quotas = message
                    case WorkerConfig():
                        raise LocalProtocolError("a second WorkerConfig")
        return Enforced(tables, contexts)

    # Accepting.

    async def _accept(self) -> None:
        """Accept on every listener until the worker drains; then close its hold on them."""
        takers = [(socket.socket(fileno=fd), take, kind) for fd, take, kind in self._takers()]
        for share in self._shares.values():
            # The others count with this worker from now on, before anything has come to it.
            share.publish()
        with self._accepting:
            async with trio.open_nursery() as nursery:
                for sock, take, kind in takers:
                    sock.setblocking(False)
                    nursery.start_soon(serve_listener, self._context, sock, take, self._shares.get(kind))
        for share in self._shares.values():
            share.leave()
        for sock, _take, _kind in takers:
            sock.close()

    def _find_shares(self) -> dict[Kind, Share]:
        place = self._config.place
        if place is None:
            return {}
        shares = Shares(place.shares_fd, place.workers)
        counts: dict[Kind, Callable[[], int]] = {
            Kind.CALLERS: lambda: self._callers_open + self._plaintext.open_connections,
            Kind.TUNNELS: lambda: self._inbound.tunnels,
        }
        return {kind: Share(shares, place.index, kind, count) for kind, count in counts.items()}

    def _find_buckets(self) -> Buckets:
        place = self._config.place
        return Buckets(place.buckets_fd if place else None)

    def _takers(self) -> Iterator[tuple[int, Take, Kind]]:
        """Say who takes the connections of each listening descriptor."""
        config = self._config
        for fd in config.tunnel_fds:
            yield fd, self._inbound.accepted, Kind.TUNNELS
        for fd in config.plaintext_fds:
            yield fd, self._plaintext.accepted, Kind.CALLERS
        for fd in config.captured_fds:
            yield fd, self._captured, Kind.CALLERS
        for listener in config.listeners:
            yield listener.fd, self._explicit_way(listener), Kind.CALLERS

    def _captured(self, sock: socket.socket) -> None:
        target = original_destination(sock)
        lead = self._router.find(Destination(*target)) if target else None
        # Without a destination it does not matter who called.
        caller = self._callers.captured(sock) if lead else UnknownCaller()
        self._router.connected(sock, lead, caller, f"{target[0]} port {target[1]}" if target else "")

    def _explicit_way(self, listener: ExplicitListener) -> Take:
        match listener.kind:
            case ListenerKind.SERVICE:
                return partial(self._explicit, listener.service, listener.port, listener.workload)
            case ListenerKind.SOCKS5:
                protocol: Callable[[], Handshake] = Socks5
            case ListenerKind.HTTP_CONNECT:
                protocol = HttpConnect
        way = ProxyWay(
            self._context,
            self._nursery,
            protocol=protocol,
            find_caller=partial(self._callers.explicit, speaks_for=listener.workload),
            lead=self._proxied,
        )
        self._ways.append(way)
        return way.accepted

    def _proxied(
        self, sock: socket.socket, destination: Destination, caller: Caller | UnknownCaller, way: Way
    ) -> None:
        self._router.connected(sock, self._router.find(destination), caller, str(destination), way)

    def _make_router(self, direct: Direct) -> Router:
        outside = self._config.outside
        passage = Passage(self._context, frozenset(outside.own_ports)) if outside.passthrough else None
        names = MeshNames(outside.domain, outside.namespace)
        return Router(self._context, outbound=self._outbound, direct=direct, names=names, passage=passage)

    def _explicit(self, service: str, port: int, speaks_for: str | None, sock: socket.socket) -> None:
        route = self._context.enforced.tables.by_name(service, port)
        caller = self._callers.explicit(sock, speaks_for) if route else UnknownCaller()
        self._outbound.connected(sock, route, caller, f"{service}:{port}")

    # What the agent says.

    async def _serve_control(self) -> None:
        while (batch := await self._channel.receive_batch()) is not None:
            for message in batch:
                self._obey(message)
            if any(isinstance(message, SnapshotUpdate | CredentialsUpdate) for message in batch):
                await self._ready()
        self._context.log.warning("the agent is gone", drain_seconds=ORPHAN_DEADLINE)
        self._drain(ORPHAN_DEADLINE)

    def _obey(self, message: ToWorker) -> None:
        match message:
            case SnapshotUpdate(snapshot=snapshot):
                self._context.enforced.tables = Tables(snapshot, self._context.enforced.tables)
                self._admission.streams.judge_again()
                self._direct.judge_again()
            case CredentialsUpdate():
                self._take_credentials(message)
            case Drain(deadline=deadline):
                self._drain(deadline)
            case Quotas():
                self._limiter.learn(message)
            case WorkerConfig():
                raise LocalProtocolError("a second WorkerConfig")

    def _contexts(self, update: CredentialsUpdate) -> TlsContexts:
        return TlsContexts(update, trust_domain=self._config.trust_domain, now=_utc_now)

    def _take_credentials(self, update: CredentialsUpdate) -> None:
        before = self._context.enforced.contexts
        self._context.enforced.contexts = before.after(update)
        # A revocation alone must not make every tunnel of the mesh shake hands anew at the same moment.
        if before.differ(update):
            self._outbound.retire_tunnels()
        self._inbound.cut_untrusted()
        self._outbound.cut_untrusted()

    # What the worker says.

    async def _ready(self) -> None:
        enforced = self._context.enforced
        ready = Ready(revision=enforced.tables.revision, generation=enforced.contexts.generation)
        self._context.log.info("worker ready", revision=ready.revision, credentials=ready.generation)
        await self._say(ready)

    async def _report(self) -> None:
        numbers = self._context.telemetry
        while True:
            await trio.sleep(REPORT_INTERVAL)
            numbers.set(telemetry.CRASHES, self._context.reactor.crashes, part="handler")
            numbers.set(telemetry.BACKLOG, self._context.backlog.total)
            numbers.set(telemetry.LIMIT_REACHED, self._context.backlog.cuts, limit="backlog")
            numbers.set(telemetry.LIMIT_REACHED, self._context.buckets.unlocked, limit="bucket_lock")
            numbers.set(telemetry.UPSTREAMS_OPEN, len(self._outbound.upstreams))
            numbers.set(telemetry.BODIES_KEPT, self._outbound.kept.total)
            numbers.set(telemetry.LIMIT_REACHED, self._outbound.kept.refusals, limit="bodies_kept")
            if not self._draining.is_set():
                for share in self._shares.values():
                    share.publish()
            await self._say(numbers.report())
            await self._tell_decisions()
            if demand := self._limiter.take_demand():
                await self._say(Demand(counts=demand))

    async def _tell_decisions(self) -> None:
        decisions = self._context.decisions
        if decided := decisions.take(self._context.clock()):
            self._context.telemetry.set(telemetry.LIMIT_REACHED, decisions.lost, limit="decisions")
            await self._say(Decisions(decided=decided))

    async def _say(self, message: FromWorker) -> None:
        try:
            await self._channel.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The agent is gone; `_serve_control` hears it too and decides.
            return

    # The end.

    async def _drain_on_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _signal in signals:
                self._drain(STOP_DEADLINE)

    def _drain(self, deadline: float) -> None:
        """Take nothing new; `deadline` seconds from now the rest is cut."""
        self._drain_deadline = deadline
        self._accepting.cancel()
        self._draining.set()

    async def _finish(self) -> None:
        self._inbound.drain()
        self._nursery.start_soon(self._guard.drain, IDLE_GRACE)
        self._nursery.start_soon(self._outbound.drain, IDLE_GRACE)
        with trio.move_on_after(self._drain_deadline):
            # The counts change inside the reactor's calls, a thousand times a second under load.
            while self._open_connections:  # noqa: ASYNC110
                await trio.sleep(DRAIN_CHECK_INTERVAL)
        await self._tell_decisions()
        self._context.log.info(
            "worker stopped",
            cut_inbound=self._inbound.open_streams,
            cut_outbound=self._callers_open,
            cut_plaintext=self._plaintext.open_connections,
        )

    @property
    def _open_connections(self) -> int:
        inbound = self._inbound.open_streams + self._plaintext.open_connections
        return inbound + self._callers_open

    @property
    def _callers_open(self) -> int:
        shaking = sum(way.handshakes for way in self._ways)
        return self._outbound.open_connections + self._direct.open_connections + shaking


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def serve_worker(control_fd: int) -> None:
    """Run a worker over the inherited descriptor until it has drained.

    Raises:
        LocalProtocolError: the agent does not speak our protocol.
    """
    sock = socket.socket(fileno=control_fd)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    channel: ControlChannel[ToWorker] = ControlChannel(stream, ToWorker)  # type: ignore[arg-type]
    first = await channel.receive_batch()
    if not first or not isinstance(first[0], WorkerConfig):
        raise LocalProtocolError("the agent's first message is no WorkerConfig")
    configure_logging(first[0].log_level, process="worker")
    structlog.contextvars.bind_contextvars(node=first[0].node)
    channel.put_back(first[1:])
    await Worker(channel, first[0]).run()


def main() -> None:
    """Start from the command line."""
    parser = argparse.ArgumentParser(description="A nodemesh worker; started by the agent, not by people.")
    parser.add_argument(
        "--control-fd", type=int, required=True, help="the inherited end of the agent's socketpair"
    )
    control_fd = parser.parse_args().control_fd
    # A connection takes two; the soft limit, often 1,024, is for programs that use select().
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # What is loaded now lives as long as the process: the collector need not look at it again. Some 50
    # objects belong to each request under way: by the default of 700 every crowd of them would be looked at.
    gc.freeze()
    gc.set_threshold(10_000)
    trio.run(serve_worker, control_fd)

"""Serves DNS on sockets of this host's loopback, by UDP and TCP.

What the mesh knows is answered at once, in the loop that reads; only what goes to an upstream takes a task,
and of those there are so many at most.
"""

import socket
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import dns.rcode
import structlog
import trio

from node_proxy.agent.dns.answer import MAX_QUERY, Elsewhere, Outcome, Reply, Responder, declined, relayed
from node_proxy.agent.dns.forward import Forwarder, receive_exactly

# Read between two turns of everybody else's.
BATCH = 64
# Each waits up to 4.5 s for upstreams and holds a socket; a stub asks again or elsewhere when refused.
MAX_FORWARDS = 256
# Stubs use TCP for what is long. When there are more, the one idle longest makes room.
MAX_CONNECTIONS = 64
# RFC 7766 section 6.2.3: in the order of seconds.
TCP_IDLE = 10.0
# Of a query that shows a bug of ours, enough to do it again.
SHOWN = 512

log = structlog.get_logger("node_proxy.agent.dns")


@dataclass(frozen=True, slots=True)
class Errand:
    """A query that an upstream is to answer, and counts among those under way until it was carried out."""

    asked: Elsewhere
    forwarder: Forwarder


class DnsServer:
    """Answers whoever asks from this very host.

    Args:
        udp: bound sockets; they stay the caller's.
        tcp: listening sockets; they stay the caller's.
        responder: knows the mesh's names.
        forwarder: knows the others; None refuses them.
    """

    def __init__(
        self,
        *,
        udp: Sequence[socket.socket],
        tcp: Sequence[socket.socket],
        responder: Responder,
        forwarder: Forwarder | None,
    ) -> None:
        self._udp = udp
        self._tcp = tcp
        self._responder = responder
        self._forwarder = forwarder
        # Least recently used first.
        self._connections: OrderedDict[trio.CancelScope, None] = OrderedDict()
        self.outcomes: Counter[Outcome] = Counter()
        self.forwards = 0

    async def serve(self) -> None:
        """Serve until cancelled."""
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(each.dup())) for each in self._tcp]
        async with trio.open_nursery() as nursery:
            for bound in self._udp:
                nursery.start_soon(self._serve_datagrams, bound, nursery)
            await trio.serve_listeners(self._serve_connection, listeners, handler_nursery=nursery)

    async def _serve_datagrams(self, bound: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(bound)
            for _ in range(BATCH):
                try:
                    wire, source = bound.recvfrom(MAX_QUERY + 1)
                except BlockingIOError:
                    break
                except OSError:
                    # Whom an earlier answer was for has gone.
                    continue
                if not _is_local(source[0]):
                    self.outcomes[Outcome.NOT_LOCAL] += 1
                    continue
                match self._respond(wire, udp=True):
                    case Reply() as reply:
                        self._send(bound, source, reply)
                    case Errand() as errand:
                        nursery.start_soon(self._forward_datagram, bound, source, errand)

    async def _forward_datagram(self, bound: socket.socket, source: tuple[str, int], errand: Errand) -> None:
        self._send(bound, source, await self._forward(errand))

    def _send(self, bound: socket.socket, source: tuple[str, int], reply: Reply) -> None:
        outcome = reply.outcome
        if reply.wire:
            try:
                bound.sendto(reply.wire, source)
            except OSError:
                # Its buffer is full or a filter of this host forbids it; the stub will ask again.
                outcome = Outcome.UNSENT
        self.outcomes[outcome] += 1

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            if len(self._connections) >= MAX_CONNECTIONS:
                idle, _ = self._connections.popitem(last=False)
                idle.cancel()
            self._connections[scope] = None
            try:
                if _is_local(stream.socket.getpeername()[0]):
                    await self._converse(stream, scope)
                else:
                    self.outcomes[Outcome.NOT_LOCAL] += 1
            except (OSError, EOFError, trio.BrokenResourceError, trio.TooSlowError):
                # It hung up, or has nothing more to ask.
                pass
            finally:
                self._connections.pop(scope, None)

    async def _converse(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        while True:
            with trio.fail_after(TCP_IDLE):
                length = int.from_bytes(await receive_exactly(stream, 2), "big")
                if length > MAX_QUERY:
                    self.outcomes[Outcome.UNHEARD] += 1
                    return
                wire = await receive_exactly(stream, length)
            if scope in self._connections:
                self._connections.move_to_end(scope)
            reply = self._respond(wire, udp=False)
            if isinstance(reply, Errand):
                reply = await self._forward(reply)
            self.outcomes[reply.outcome] += 1
            if not reply.wire:
                return
            with trio.fail_after(TCP_IDLE):
                await stream.send_all(len(reply.wire).to_bytes(2, "big") + reply.wire)

    def _respond(self, wire: bytes, *, udp: bool) -> Reply | Errand:
        """Answer all that can be answered without waiting."""
        try:
            return self._decide(wire, udp=udp)
        except Exception:
            # The one catch: a bug costs this query, not the agent.
            log.exception("query not answered", query=wire[:SHOWN].hex())
            return Reply(b"", Outcome.FAILED)

    def _decide(self, wire: bytes, *, udp: bool) -> Reply | Errand:
        reply = self._responder.respond(wire, udp=udp)
        if isinstance(reply, Reply):
            return reply
        if self._forwarder is None:
            return Reply(declined(reply, dns.rcode.REFUSED, recursion=False), Outcome.REFUSED)
        if (known := self._forwarder.known(reply.query)) is not None:
            return Reply(relayed(reply, known), Outcome.CACHED)
        if self.forwards >= MAX_FORWARDS:
            return Reply(declined(reply, dns.rcode.SERVFAIL, recursion=True), Outcome.TOO_MANY)
        self.forwards += 1
        return Errand(reply, self._forwarder)

    async def _forward(self, errand: Errand) -> Reply:
        try:
            answer = await errand.forwarder.ask(errand.asked.query)
            if answer is not None:
                return Reply(relayed(errand.asked, answer), Outcome.FORWARDED)
        except Exception:
            # As above.
            log.exception("query not forwarded", question=str(errand.asked.query.question[0]))
            return Reply(b"", Outcome.FAILED)
        finally:
            self.forwards -= 1
        wire = declined(errand.asked, dns.rcode.SERVFAIL, recursion=True)
        return Reply(wire, Outcome.UPSTREAM_FAILED)


def _is_local(address: str) -> bool:
    """Whether the sender is on this host: with route_localnet packets from elsewhere reach loopback, too."""
    return address == "::1" or address.startswith("127.")

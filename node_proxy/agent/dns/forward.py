"""Asks upstreams about names outside the mesh: cached, with deadlines, failover, and TCP for what is long.

An answer counts when it comes from the address asked, to the port that asked, with the number and the
question asked. Port and number are random, and no question is asked twice at once, so that guessing is hard.
"""

import random
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import structlog
import trio

from node_proxy.address import SocketAddress
from node_proxy.agent.dns.answer import TCP_PAYLOAD, UDP_PAYLOAD
from node_proxy.agent.dns.answer_cache import AnswerCache, Question, question_of
from node_proxy.agent.dns.upstreams import Upstreams

# Three of them end within the 5 s that the C library waits for an answer.
ATTEMPT = 1.5
ATTEMPTS = 3

log = structlog.get_logger("node_proxy.agent.dns")


@dataclass(slots=True)
class _Asking:
    ended: trio.Event = field(default_factory=trio.Event)
    answer: dns.message.Message | None = None
    abandoned: bool = True


class Forwarder:
    """Gives upstreams' answers.

    Args:
        upstreams: whom to ask.
        mark: set on its sockets, so that capture lets them pass; 0 sets none.
        now: seconds of a clock that never goes back.
        rng: numbers of queries; nobody may be able to guess them.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        *,
        mark: int = 0,
        now: Callable[[], float] = trio.current_time,
        rng: random.Random | None = None,
    ) -> None:
        self._upstreams = upstreams
        self._mark = mark
        self._now = now
        self._rng = rng or random.SystemRandom()
        self._asking: dict[Question, _Asking] = {}
        self._complained = False
        self.cache = AnswerCache()
        self.failures: Counter[str] = Counter()

    def known(self, query: dns.message.Message) -> dns.message.Message | None:
        """Give the answer if it is in the cache."""
        return self.cache.get(question_of(query), self._now())

    async def ask(self, query: dns.message.Message) -> dns.message.Message | None:
        """Ask upstreams; None when none of them gave an answer that can be used."""
        question = question_of(query)
        while (asking := self._asking.get(question)) is not None:
            await asking.ended.wait()
            if not asking.abandoned:
                return asking.answer
        asking = self._asking[question] = _Asking()
        try:
            asking.answer = await self._ask(question)
            asking.abandoned = False
        finally:
            del self._asking[question]
            asking.ended.set()
        return asking.answer

    async def _ask(self, question: Question) -> dns.message.Message | None:
        upstreams = self._upstreams.in_order(self._now())
        if not upstreams and not self._complained:
            log.warning("no upstream to ask; name one in /etc/resolv.conf or in dns.upstreams")
        self._complained = not upstreams
        for attempt in range(ATTEMPTS if upstreams else 0):
            upstream = upstreams[attempt % len(upstreams)]
            why = "no answer"
            try:
                with trio.fail_after(ATTEMPT):
                    answer, size = await self._exchange(upstream, question)
            except trio.TooSlowError:
                pass
            except (OSError, EOFError) as error:
                why = str(error)
            else:
                if answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                    self._upstreams.answered(upstream)
                    self.cache.put(question, answer, size=size, now=self._now())
                    return answer
                why = dns.rcode.to_text(answer.rcode())
            self.failures[upstream] += 1
            if self._upstreams.failed(upstream, self._now()):
                log.warning("upstream failed", upstream=upstream, name=str(question.name), reason=why)
        return None

    async def _exchange(self, upstream: SocketAddress, question: Question) -> tuple[dns.message.Message, int]:
        """Ask one upstream by UDP, and by TCP if its answer does not fit; give it and its length.

        Raises:
            OSError, EOFError: it cannot be reached, or hangs up.
        """
        query = self._query(question)
        with self._socket(upstream, socket.SOCK_DGRAM) as udp:
            # Connected: the kernel passes on no other sender's packets, and says when nobody listens there.
            await udp.connect((str(upstream.ip), upstream.port))
            await udp.send(query.to_wire())
            while (answer := accepted(await udp.recv(TCP_PAYLOAD), query)) is None:
                pass
        if not answer[0].flags & dns.flags.TC:
            return answer
        with self._socket(upstream, socket.SOCK_STREAM) as tcp:
            await tcp.connect((str(upstream.ip), upstream.port))
            stream = trio.SocketStream(tcp)
            await stream.send_all(query.to_wire(prepend_length=True))
            while True:
                length = int.from_bytes(await receive_exactly(stream, 2), "big")
                if (answer := accepted(await receive_exactly(stream, length), query)) is not None:
                    return answer

    def _query(self, question: Question) -> dns.message.Message:
        query = dns.message.make_query(
            question.name,
            question.kind,
            use_edns=0,
            want_dnssec=question.dnssec,
            payload=UDP_PAYLOAD,
            id=self._rng.getrandbits(16),
        )
        if question.unchecked:
            query.flags |= dns.flags.CD
        return query

    def _socket(self, upstream: SocketAddress, kind: int) -> trio.socket.SocketType:
        made = trio.socket.socket(socket.AF_INET if upstream.ip.version == 4 else socket.AF_INET6, kind)
        if self._mark:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
        return made


def accepted(wire: bytes, query: dns.message.Message) -> tuple[dns.message.Message, int] | None:
    """Read what claims to be the answer to `query`, with its length; None when it is not."""
    try:
        answer = dns.message.from_wire(wire, keyring=False, ignore_trailing=True)
    except dns.exception.DNSException:
        return None
    is_answer = answer.flags & dns.flags.QR and answer.opcode() == dns.opcode.QUERY and answer.id == query.id
    return (answer, len(wire)) if is_answer and answer.question == query.question else None


async def receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    """Read so many bytes.

    Raises:
        EOFError: the stream ended before.
    """
    data = bytearray()
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        if not more:
            raise EOFError("the connection ended within a message")
        data += more
    return bytes(data)

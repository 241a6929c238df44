"""What agent and worker say to each other over their socketpair.

Messages are MessagePack, each behind a four-byte big-endian length. `encode` and `MessageReader` are pure;
`ControlChannel` is the thin trio driver. Neither side ever blocks on the other for its own work: the agent
sends whole values (the newest Snapshot replaces older ones), the worker reports on a timer.
"""

import enum
import struct
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec
import trio

from node_proxy.errors import LocalProtocolError
from node_proxy.snapshot import Snapshot, Value
from registry.model.decision import Outcome, RecordedRequest
from registry.model.enrolment import FederatedDomain, Revocation
from registry.model.resource import DEFAULT_NAMESPACE

# A snapshot of 10,000 endpoints is about 3 MB; more than this is a bug or an attack.
MAX_MESSAGE = 256 << 20
_LENGTH = struct.Struct(">I")


class Credential(Value, frozen=True, kw_only=True):
    """A certificate chain and its private key in PEM, for one identity."""

    identity: str
    server_name: str
    chain_pem: str
    key_pem: str


class WorkerConfig(Value, frozen=True, kw_only=True, tag=True):
    """The first message to a worker: what does not change while it lives.

    `outside` says what becomes of destinations that callers name themselves and that are no service.
    `listeners` give the inherited file descriptors, `plaintext_fds` those that take what other hosts send to
    workloads' ports past the mesh. `default_workload` is the identity of callers that no
    workload declares as its own, on captured connections and listeners without a workload of their own.
    Without it they are unknown: they speak with the node's identity, or are refused. `place` is this worker's
    among those that accept from the same sockets, None when it is alone.
    """

    node: str
    trust_domain: str
    tunnel_fds: tuple[int, ...]
    captured_fds: tuple[int, ...]
    listeners: tuple["ExplicitListener", ...]
    default_workload: str | None
    mark: int
    log_level: str
    refuse_unknown_callers: bool = False
    outside: "OutsidePolicy" = msgspec.field(default_factory=lambda: OutsidePolicy())
    plaintext_fds: tuple[int, ...] = ()
    place: "Place | None" = None


class Place(Value, frozen=True, kw_only=True):
    """Which of so many workers this is, and the inherited memory that it shares with the others.

    It has the numbers of their connections (`node_proxy.shares`), and the counts of what is limited
    (`node_proxy.buckets`); without the latter this worker counts for itself.
    """

    index: int
    workers: int
    shares_fd: int
    buckets_fd: int | None = None


class ListenerKind(enum.Enum):
    """How callers of an explicit listener say where they want to go: `SERVICE` has said it for them."""

    SERVICE = "service"
    SOCKS5 = "socks5"
    HTTP_CONNECT = "http_connect"


class ExplicitListener(Value, frozen=True, kw_only=True):
    """A listening socket that leads into the mesh, to one service port if it is of that kind.

    It speaks for `workload`, or else for whoever owns the caller.
    """

    fd: int
    workload: str | None
    kind: ListenerKind = ListenerKind.SERVICE
    service: str = ""
    port: int = 0


class OutsidePolicy(Value, frozen=True, kw_only=True):
    """How services are called by name, and whether what is no service may pass.

    `own_ports` are what this node's proxy listens on, where nothing may pass to.
    """

    domain: str = "mesh"
    namespace: str = DEFAULT_NAMESPACE
    passthrough: bool = False
    own_ports: tuple[int, ...] = ()


class SnapshotUpdate(Value, frozen=True, kw_only=True, tag=True):
    """The state to enforce from now on."""

    snapshot: Snapshot


class CredentialsUpdate(Value, frozen=True, kw_only=True, tag=True):
    """The certificates to use for new handshakes, and whom to believe; replaces what was said before.

    `roots_pem` are our trust domain's roots, `federated` other domains with theirs. `revocations` hold for
    tunnels that are open already too. `generation` numbers the updates of one agent.
    """

    credentials: tuple[Credential, ...]
    default_identity: str
    roots_pem: str
    federated: tuple[FederatedDomain, ...] = ()
    revocations: tuple[Revocation, ...] = ()
    generation: int = 0


class Drain(Value, frozen=True, kw_only=True, tag=True):
    """Accept nothing more, send GOAWAY, exit when the last stream ends or after `deadline` seconds."""

    deadline: float


class Quotas(Value, frozen=True, kw_only=True, tag=True):
    """This node's shares, above 0 and at most 1, of the limits that all nodes share; replaces the last ones.

    By the name of a count (`registry.rules.limits.keys.mesh_name`), or of a limit, for all of its counts that
    are not named themselves.
    """

    shares: dict[str, float]


ToWorker = WorkerConfig | SnapshotUpdate | CredentialsUpdate | Drain | Quotas


class Ready(Value, frozen=True, kw_only=True, tag=True):
    """The worker accepts connections, enforces snapshot `revision` and uses credentials `generation`."""

    revision: int
    generation: int = 0


class Sample(Value, frozen=True, kw_only=True):
    """One counter or gauge: its name in `node_proxy.dataplane.telemetry`, labels, value."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Report(Value, frozen=True, kw_only=True, tag=True):
    """The worker's counters as they stand; sent every second."""

    samples: tuple[Sample, ...]


class Decided(Value, frozen=True, kw_only=True):
    """Decisions that differ in nothing but their time; the fields are those of a `DecisionRecord`.

    Counted since the last message. Times are in seconds before the message was made: the worker reads no
    wall clock.
    """

    outcome: Outcome
    reason: str
    policy: str
    source: str
    source_ip: str
    remote_ip: str
    destination_ip: str
    sni: str
    destination: str
    port: int
    count: int
    first_ago: float
    last_ago: float
    ids: tuple[str, ...]
    request: RecordedRequest | None = None
    opening: bool = False


class Decisions(Value, frozen=True, kw_only=True, tag=True):
    """What the worker decided since its last such message, at most one a second; the latest is last."""

    decided: tuple[Decided, ...]


class Demand(Value, frozen=True, kw_only=True, tag=True):
    """Requests that the worker was asked for since its last such message, allowed or not.

    By the names of the counts that all nodes share. Sent every second while there are any.
    """

    counts: dict[str, int]


FromWorker = Ready | Report | Decisions | Demand

M = TypeVar("M")


def encode(message: ToWorker | FromWorker) -> bytes:
    """Give a message as it goes over the wire."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_MESSAGE:
        raise LocalProtocolError(f"a control message of {len(body)} bytes is over the limit of {MAX_MESSAGE}")
    return _LENGTH.pack(len(body)) + body


class MessageReader(Generic[M]):
    """Turns chunks of bytes into messages of the types given.

    Raises:
        LocalProtocolError: a message is malformed or too large (both ends are ours).
    """

    def __init__(self, kind: type[M]) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[M]:
        """Add bytes; give each message they complete."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_MESSAGE:
                raise LocalProtocolError(f"a control message claims {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            try:
                yield self._decoder.decode(body)
            except msgspec.MsgspecError as error:
                raise LocalProtocolError(f"malformed control message: {error}") from error


class ControlChannel(Generic[M]):
    """One end of the socketpair: `send` whole messages, iterate `messages` of type `M`."""

    def __init__(self, stream: trio.abc.Stream, kind: type[M]) -> None:
        self._stream = stream
        self._reader = MessageReader(kind)
        self._sending = trio.Lock()
        self._kept: list[M] = []

    async def send(self, message: ToWorker | FromWorker) -> None:
        """Send one message.

        Raises:
            trio.BrokenResourceError: the other process is gone.
        Cancellation in mid-message leaves the channel unusable: close it.
        """
        async with self._sending:
            await self._stream.send_all(encode(message))

    async def receive_batch(self) -> list[M] | None:
        """Wait for at least one message; None when the other side has closed.

        Cancellation loses nothing.
        """
        if self._kept:
            kept, self._kept = self._kept, []
            return kept
        while True:
            try:
                data = await self._stream.receive_some(1 << 16)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            if messages := list(self._reader.feed(bytes(data))):
                return messages

    def put_back(self, messages: list[M]) -> None:
        """Let the next `receive_batch` give `messages` first."""
        self._kept = messages + self._kept

    async def aclose(self) -> None:
        """Close this end."""
        await self._stream.aclose()

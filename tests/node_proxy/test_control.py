import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.control import (
    MAX_MESSAGE,
    ControlChannel,
    Drain,
    FromWorker,
    MessageReader,
    Ready,
    Report,
    Sample,
    SnapshotUpdate,
    ToWorker,
    encode,
)
from node_proxy.errors import LocalProtocolError
from node_proxy.snapshot import Endpoint, LocalWorkload, ServicePortView, ServiceView, Snapshot
from registry.model.authorization import AuthorizationPolicy, AuthorizationPolicySpec, From, Rule, Source
from registry.model.mesh import DefaultAuthorization
from registry.model.resource import Metadata
from registry.model.service import PortProtocol

SNAPSHOT = Snapshot(
    revision=7,
    node="web-1",
    addresses=("10.77.0.1",),
    trust_domain="nodemesh.local",
    default_authorization=DefaultAuthorization.DENY,
    services=(
        ServiceView(
            name="default/api",
            vips=("240.240.0.1",),
            ports=(
                ServicePortView(
                    port=80,
                    protocol=PortProtocol.HTTP,
                    endpoints=(
                        Endpoint(
                            node="api-1",
                            workload="default/api",
                            address="10.77.0.2",
                            port=8080,
                            tunnel_port=15008,
                            identity="spiffe://nodemesh.local/ns/default/sa/api",
                            server_name="api.default.sa.nodemesh.local",
                            weight=100,
                            healthy=True,
                        ),
                    ),
                ),
            ),
        ),
    ),
    local=(
        LocalWorkload(
            name="default/web",
            namespace="default",
            labels={"app": "web"},
            identity="spiffe://nodemesh.local/ns/default/sa/web",
            server_name="web.default.sa.nodemesh.local",
            ports=(8080,),
            dial="127.0.0.1",
        ),
    ),
    policies=(
        AuthorizationPolicy(
            api_version="security.istio.io/v1",
            kind="AuthorizationPolicy",
            metadata=Metadata(name="p"),
            spec=AuthorizationPolicySpec(rules=(Rule(from_=(From(source=Source(namespaces=("a",))),)),)),
        ),
    ),
    closed_namespaces={"shop": "authorizationpolicies/shop/bad"},
)
TO_WORKER: list[ToWorker] = [SnapshotUpdate(snapshot=SNAPSHOT), Drain(deadline=1.5)]
FROM_WORKER: list[FromWorker] = [
    Ready(revision=3),
    Report(samples=(Sample(name="x_total", labels=(("a", "b"),), value=2.0),)),
]


@given(chunk=st.integers(1, 4096))
def test_any_chunking_gives_the_same_messages(chunk: int) -> None:
    """However the bytes arrive, the same messages come out."""
    data = b"".join(encode(message) for message in TO_WORKER)
    reader: MessageReader[ToWorker] = MessageReader(ToWorker)  # type: ignore[arg-type]
    seen = [message for i in range(0, len(data), chunk) for message in reader.feed(data[i : i + chunk])]
    assert seen == TO_WORKER


def test_malformed_message() -> None:
    """What the other end cannot have meant is a bug of ours, and says so."""
    reader: MessageReader[FromWorker] = MessageReader(FromWorker)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="malformed"):
        list(reader.feed(encode(TO_WORKER[1])))


def test_absurd_length() -> None:
    """A length over the limit is refused before anything is stored for it."""
    reader: MessageReader[FromWorker] = MessageReader(FromWorker)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="claims"):
        list(reader.feed((MAX_MESSAGE + 1).to_bytes(4, "big")))


async def test_channel_carries_both_ways() -> None:
    """Each end gives what the other sent, and None once it has closed."""
    ours, theirs = trio.testing.memory_stream_pair()
    agent: ControlChannel[FromWorker] = ControlChannel(ours, FromWorker)  # type: ignore[arg-type]
    worker: ControlChannel[ToWorker] = ControlChannel(theirs, ToWorker)  # type: ignore[arg-type]
    for message in TO_WORKER:
        await agent.send(message)
    received: list[ToWorker] = []
    while len(received) < len(TO_WORKER):
        received += await worker.receive_batch() or []
    assert received == TO_WORKER
    await worker.send(FROM_WORKER[0])
    assert await agent.receive_batch() == [FROM_WORKER[0]]
    await worker.aclose()
    assert await agent.receive_batch() is None

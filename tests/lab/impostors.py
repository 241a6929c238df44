"""Those who lie about who they are: a host that forges its CONNECTs, a node that signs what is not so."""

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from node_proxy.agent.credentials import Held, Keyring
from registry.model.identity import Identity, NodeIdentity, WorkloadIdentity
from registry.model.parse import render
from registry.model.resource import Resource
from registry.model.signature import ResourceSigner
from tests.integration.certificates import Leaf, client_context
from tests.integration.hbone import Header, Stream, TunnelClient
from tests.lab.world import DATABASE, WORLD, Stage, in_force
from tests.support.mesh import PREFIX, Mesh, Node
from tests.support.namespaces import within


@contextlib.contextmanager
def hbone(stage: Stage, identity: Identity) -> Iterator[TunnelClient]:
    """Open a tunnel from the calling host to the database, past its proxy, with a certificate it holds."""
    held = _held(stage.calling, identity)
    leaf = Leaf(str(identity), held.chain_pem, held.key_pem)
    context = client_context(leaf, "".join(_keyring(stage.calling).enrolment().roots))
    name = WorkloadIdentity.from_short(DATABASE[0], WORLD.trust_domain).server_name
    with within(stage.calling.host):
        client = TunnelClient((stage.called.host.address, stage.called.plan.tunnel_port), context, name=name)
    with client:
        yield client


def ask(client: TunnelClient, *headers: Header) -> Stream:
    """CONNECT to the database with these headers besides; give what came of it."""
    authority = f"{WORLD.destinations[DATABASE[0]].address}:{DATABASE[1]}".encode()
    stream = client.request([(b":method", b"CONNECT"), (b":authority", authority), *headers])
    client.pump(lambda: stream.status is not None or stream.reset is not None)
    return stream


@contextlib.contextmanager
def told(stage: Stage, word: Mapping[str, Resource]) -> Iterator[None]:
    """Write what the rogue node signs, wait until both proxies know it, and undo it afterwards."""
    held = _held(stage.rogue, NodeIdentity(WORLD.trust_domain, stage.rogue.name))
    key = serialization.load_pem_private_key(held.key_pem.encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signer = ResourceSigner(key, held.chain)
    before = {place: _read(stage.mesh, PREFIX + place) for place in word}
    stage.wait_enforced(
        stage.mesh.commit(
            {
                PREFIX + place: signer.sign(place, render(resource)).decode()
                for place, resource in word.items()
            }
        )
    )
    try:
        yield
    finally:
        revisions = [_restore(stage.mesh, PREFIX + place, former) for place, former in before.items()]
        stage.wait_enforced(max(revisions))


def distrusted(node: Node) -> set[str]:
    """Give the keys that a node rejects, and those of workloads that it lets serve nothing."""
    shown = in_force(node)
    return {each["key"] for each in shown["rejected"]} | {
        f"nodes/{each['node']}/workloads/{each['workload']}" for each in shown["excluded"]
    }


class Ear:
    """Listens where the tunnels of a node that runs no proxy would end; hangs up on all who come."""

    def __init__(self, node: Node) -> None:
        self.heard = 0
        with within(node.host):
            self._listener = socket.create_server((node.host.address, node.plan.tunnel_port))
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Wakes accept, which closing does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.heard += 1
                connection.close()


def _keyring(node: Node) -> Keyring:
    return Keyring(node.folder / "state")


def _held(node: Node, identity: Identity) -> Held:
    held = _keyring(node).load(identity)
    assert held is not None, f"{node.name} holds no certificate of {identity}"
    return held


def _read(mesh: Mesh, key: str) -> tuple[str, int] | None:
    """Give a key's value and lease; None when it is not there."""
    found = json.loads(mesh.etcdctl("get", key, "--write-out=json")).get("kvs", ())
    return next(((base64.b64decode(each["value"]).decode(), each.get("lease", 0)) for each in found), None)


def _restore(mesh: Mesh, key: str, former: tuple[str, int] | None) -> int:
    if former is None:
        return mesh.delete(key)
    value, lease = former
    return mesh.put(key, value, lease=lease)

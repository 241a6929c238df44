"""Signs what this node says of itself with the node's key. No I/O."""

from collections.abc import Callable

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from node_proxy.agent.credentials import Held
from registry.model.parse import render
from registry.model.resource import Resource
from registry.model.signature import ResourceSigner
from registry.store import keys
from registry.store.signed import SignedByNode, rule_for


class RecordSigner:
    """Renders resources, signed where the node signs.

    A value changes only with what it says, or with the certificate: no two signatures are alike, and each
    that differs would be written, and read by every node.

    Args:
        held: gives the node's certificate and key in use.
    """

    def __init__(self, held: Callable[[], Held]) -> None:
        self._held = held
        self._chain_pem = ""
        self._signed: dict[str, tuple[bytes, bytes]] = {}

    def __call__(self, place: str, resource: Resource) -> bytes:
        """Give the bytes to write at `place`."""
        value = render(resource)
        if not isinstance(rule_for(keys.parse(place)), SignedByNode):
            return value
        held = self._held()
        if held.chain_pem != self._chain_pem:
            self._chain_pem = held.chain_pem
            self._signed.clear()
        known = self._signed.get(place)
        if known is None or known[0] != value:
            known = self._signed[place] = (value, _signer(held).sign(place, value))
        return known[1]


def _signer(held: Held) -> ResourceSigner:
    key = serialization.load_pem_private_key(held.key_pem.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        # `hold` takes no other.
        raise TypeError("the node's key is not on an elliptic curve")
    return ResourceSigner(key, held.chain)

"""NodeQuotas: what a node is asked for under limits that all nodes share."""

from typing import Annotated, ClassVar, Final

from msgspec import Meta

from registry.model.resource import Resource, Strict

# Some 150 bytes each, sent to every node whenever one of them has changed by a tenth: 10 KiB or so.
MAX_DEMANDS: Final = 64

Demands = Annotated[dict[str, Annotated[float, Meta(ge=0)]], Meta(max_length=MAX_DEMANDS)]


class NodeQuotasSpec(Strict, frozen=True, kw_only=True):
    """`demands`: requests a second, allowed or not, by the name of a count.

    The name is ``namespace/service/limit#key``, where the key is a digest: of a caller's identity, of a
    header's value, or of the empty text where all requests count as one.
    """

    demands: Demands = {}


class NodeQuotas(Resource, frozen=True, kw_only=True):
    """What a node is asked for; written and signed by the node, under its lease."""

    KIND: ClassVar[str] = "NodeQuotas"
    PLURAL: ClassVar[str] = "nodequotas"

    spec: NodeQuotasSpec

"""Service: a name that selects workloads by labels."""

import enum
from typing import ClassVar

from registry.model.identity import WorkloadIdentity
from registry.model.resource import Labels, Name, Port, Resource, Strict


class PortProtocol(enum.Enum):
    """What a service port speaks; decides whether layer 7 rules can apply.

    With `AUTO` the first bytes of each connection decide between HTTP/1.1, HTTP/2 and plain TCP.
    """

    TCP = "tcp"
    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"
    TLS = "tls"
    AUTO = "auto"

    @property
    def http(self) -> bool:
        """Whether it is surely HTTP."""
        return self in (PortProtocol.HTTP, PortProtocol.HTTP2, PortProtocol.GRPC)


class ServicePort(Strict, frozen=True, kw_only=True):
    """A port callers use and the workload's port behind it (`target_port`, default the same)."""

    port: Port
    name: Name | None = None
    target_port: Port | None = None
    protocol: PortProtocol = PortProtocol.TCP

    @property
    def target(self) -> int:
        """The port on the workload."""
        return self.target_port or self.port


class ServiceSpec(Strict, frozen=True, kw_only=True):
    """`identities` are ``namespace/account`` or SPIFFE IDs; none means the account of the Service's name."""

    ports: tuple[ServicePort, ...]
    selector: Labels
    identities: tuple[str, ...] = ()


class Service(Resource, frozen=True, kw_only=True):
    """A name that selects workloads by labels, and the identities that may serve it."""

    KIND: ClassVar[str] = "Service"
    PLURAL: ClassVar[str] = "services"

    spec: ServiceSpec

    def identities(self, trust_domain: str) -> frozenset[WorkloadIdentity]:
        """Give the identities a workload must prove to serve this name (design: never labels alone).

        Raises:
            InvalidIdentity: an entry is malformed or of another trust domain.
        """
        if not self.spec.identities:
            return frozenset({WorkloadIdentity(trust_domain, self.metadata.namespace, self.metadata.name)})
        return frozenset(WorkloadIdentity.from_short(text, trust_domain) for text in self.spec.identities)

    def selects(self, namespace: str, labels: Labels) -> bool:
        """Whether a workload in `namespace` with `labels` is behind this name."""
        return namespace == self.metadata.namespace and self.spec.selector.items() <= labels.items()

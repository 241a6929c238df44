"""ExternalService: a name outside the mesh that workloads call through their own host's proxy.

Names and meanings follow Istio's ServiceEntry where it has them. There is no tunnel and no proxy at the other
end, so who may call is said here and enforced where the call begins.
"""

import enum
from typing import Annotated, ClassVar

from msgspec import Meta

from registry.model.resource import Name, Port, Resource, Strict
from registry.model.service import PortProtocol

# RFC 1123 section 2.1, in lower case as names are compared, with at least one dot: a name of one label
# is whatever a host's search list makes of it.
HOST_PATTERN = r"^(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?\Z"
Host = Annotated[str, Meta(pattern=HOST_PATTERN)]


class Resolution(enum.Enum):
    """Where the addresses come from: `STATIC` is `endpoints`, `DNS` the first of the hosts."""

    STATIC = "STATIC"
    DNS = "DNS"


class ExternalTlsMode(enum.Enum):
    """What the proxy does on the way out: `SIMPLE` speaks TLS for the caller and verifies the server."""

    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"


class ExternalPort(Strict, frozen=True, kw_only=True):
    """A port callers use and the port dialled for it (`target_port`, default the same)."""

    number: Port
    name: Name | None = None
    protocol: PortProtocol = PortProtocol.TCP
    target_port: Port | None = None

    @property
    def target(self) -> int:
        """The port that is dialled."""
        return self.target_port or self.number


class ExternalEndpoint(Strict, frozen=True, kw_only=True):
    """An IP address at which the service is reached."""

    address: str


class ExternalTls(Strict, frozen=True, kw_only=True):
    """`sni` is what the certificate must be for, default the first host; `ca_certificates` are PEM.

    Without `ca_certificates` the certificates that the calling host's system trusts are.
    """

    mode: ExternalTlsMode = ExternalTlsMode.DISABLE
    sni: Host | None = None
    ca_certificates: str | None = None


class ExternalServiceSpec(Strict, frozen=True, kw_only=True):
    """`hosts` are its names: the first is resolved and verified, all lead to it.

    `allowed_principals` are identities or patterns as in an AuthorizationPolicy; left out, every caller that
    has an identity may call.
    """

    hosts: tuple[Host, ...]
    ports: tuple[ExternalPort, ...]
    endpoints: tuple[ExternalEndpoint, ...] = ()
    resolution: Resolution = Resolution.DNS
    tls: ExternalTls = ExternalTls()
    allowed_principals: tuple[str, ...] | None = None


class ExternalService(Resource, frozen=True, kw_only=True):
    """A name outside the mesh, how it is reached, and who may."""

    KIND: ClassVar[str] = "ExternalService"
    PLURAL: ClassVar[str] = "externalservices"

    spec: ExternalServiceSpec

    @property
    def server_name(self) -> str:
        """The name that TLS asks for and the certificate must be for."""
        return self.spec.tls.sni or self.spec.hosts[0]

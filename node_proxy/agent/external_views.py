"""From ExternalServices in force to what workers see of them. No I/O."""

from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

from node_proxy.agent.state import MeshState
from node_proxy.snapshot import ExternalPortView, ExternalServiceView
from registry.model.external_checks import is_outside
from registry.model.external_service import ExternalService, ExternalTlsMode, Resolution
from registry.model.status import Status
from registry.store import keys


def names_to_resolve(state: MeshState) -> Iterator[str]:
    """Give the names whose addresses are wanted."""
    for _, external in state.of(ExternalService):
        if external.spec.resolution is Resolution.DNS:
            yield external.spec.hosts[0]


def external_views(
    state: MeshState, resolved: Callable[[str], tuple[str, ...]]
) -> tuple[ExternalServiceView, ...]:
    """Give the external services by name; `resolved` gives the addresses of a name."""
    networks = tuple(map(ip_network, state.mesh().vip_ranges))

    def is_dialled(address: str) -> bool:
        # Also what a name resolves to: whoever answers for it must not lead the proxy to itself.
        return is_outside(address) and not any(ip_address(address) in network for network in networks)

    views = []
    for _, external in sorted(state.of(ExternalService), key=lambda pair: pair[1].name):
        spec = external.spec
        addresses = [endpoint.address for endpoint in spec.endpoints]
        if spec.resolution is Resolution.DNS:
            addresses = list(resolved(spec.hosts[0]))
        metadata = external.metadata
        key = keys.render(keys.StatusKey(ExternalService.PLURAL, metadata.namespace, metadata.name))
        status = state.get(key, Status)
        views.append(
            ExternalServiceView(
                name=external.name,
                hosts=spec.hosts,
                vips=status.spec.vips if status else (),
                ports=tuple(
                    ExternalPortView(port=port.number, target=port.target, protocol=port.protocol)
                    for port in spec.ports
                ),
                addresses=tuple(filter(is_dialled, addresses)),
                server_name=external.server_name if spec.tls.mode is ExternalTlsMode.SIMPLE else None,
                roots_pem=spec.tls.ca_certificates or "",
                allowed=spec.allowed_principals,
            )
        )
    return tuple(views)

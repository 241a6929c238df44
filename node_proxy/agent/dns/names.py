"""From what the store says to what has a name: services in force and the virtual addresses given to them.

Of a Service and an ExternalService of one name and namespace the Service has the name.
"""

import ipaddress
from collections.abc import Iterator

from node_proxy.agent.dns.zone import Contents, NamedPort, NamedService, Network
from node_proxy.agent.state import MeshState
from registry.model.external_service import ExternalService
from registry.model.service import Service
from registry.model.status import Status
from registry.store import keys


def contents_of(state: MeshState) -> Contents:
    """Give what the zone is made of, in an order that is always the same."""
    services = (*_services(state), *_external_services(state))
    return Contents(services=services, networks=tuple(_networks(state)))


def _services(state: MeshState) -> Iterator[NamedService]:
    for _, service in sorted(state.of(Service), key=lambda pair: pair[1].name):
        yield NamedService(
            name=service.metadata.name,
            namespace=service.metadata.namespace,
            addresses=tuple(_addresses(state, service)),
            ports=tuple(NamedPort(name=port.name or "", port=port.port) for port in service.spec.ports),
        )


def _external_services(state: MeshState) -> Iterator[NamedService]:
    # Of two that name one host the first by name has it, as the controller says.
    for _, service in sorted(state.of(ExternalService), key=lambda pair: pair[1].name):
        yield NamedService(
            name=service.metadata.name,
            namespace=service.metadata.namespace,
            addresses=tuple(_addresses(state, service)),
            ports=tuple(NamedPort(name=port.name or "", port=port.number) for port in service.spec.ports),
            hosts=service.spec.hosts,
        )


def _addresses(state: MeshState, service: Service | ExternalService) -> Iterator[str]:
    metadata = service.metadata
    key = keys.render(keys.StatusKey(service.PLURAL, metadata.namespace, metadata.name))
    status = state.get(key, Status)
    for text in status.spec.vips if status else ():
        try:
            yield str(ipaddress.ip_address(text))
        except ValueError:
            # Somebody edited the status by hand; it is as if the service had none.
            continue


def _networks(state: MeshState) -> Iterator[Network]:
    for text in state.mesh().vip_ranges:
        try:
            yield ipaddress.ip_network(text)
        except ValueError:
            # Capture complains of it; names of services are answered all the same.
            continue

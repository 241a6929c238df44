from ipaddress import ip_network

from node_proxy.agent.dns.names import contents_of
from node_proxy.agent.dns.zone import NamedPort, NamedService
from node_proxy.agent.state import MeshState
from registry.model.external_service import ExternalPort, ExternalService, ExternalServiceSpec
from registry.model.resource import NODEMESH, Metadata
from tests.node_proxy.agent.documents import TRUST_DOMAIN, changed, mesh, relisted, service, vips


def bank() -> ExternalService:
    """Give a service outside the mesh."""
    return ExternalService(
        api_version=NODEMESH,
        kind=ExternalService.KIND,
        metadata=Metadata(name="bank"),
        spec=ExternalServiceSpec(
            hosts=("api.bank.example",), ports=(ExternalPort(number=443, name="https"),)
        ),
    )


def test_contents() -> None:
    """Services in force, their ports, and the addresses of their statuses make the zone, in one order."""
    state = MeshState(trust_domain=TRUST_DOMAIN)
    state.apply(
        relisted(
            7,
            changed("services/default/web", service("web", port=80), 1),
            changed("services/default/api", service("api", port=8080), 2),
            changed("status/services/default/api", vips("api", "240.240.0.7", "nonsense", "FD6D::7"), 3),
            changed("externalservices/default/bank", bank(), 4),
            changed("status/externalservices/default/bank", vips("bank", "240.240.0.9"), 5),
            changed("mesh", mesh(), 6),
        )
    )
    contents = contents_of(state)
    assert contents.services == (
        NamedService(
            name="api",
            namespace="default",
            addresses=("240.240.0.7", "fd6d::7"),
            ports=(NamedPort(name="", port=8080),),
        ),
        NamedService(name="web", namespace="default", addresses=(), ports=(NamedPort(name="", port=80),)),
        NamedService(
            name="bank",
            namespace="default",
            addresses=("240.240.0.9",),
            ports=(NamedPort(name="https", port=443),),
            hosts=("api.bank.example",),
        ),
    )
    assert contents.networks == (ip_network("240.240.0.0/16"), ip_network("fd6d:6573:6800::/64"))

from typing import Any

import msgspec
import pytest

from node_proxy.agent.external_views import external_views, names_to_resolve
from node_proxy.agent.state import MeshState
from node_proxy.snapshot import ExternalServiceView
from registry.model.external_service import ExternalService
from registry.model.parse import from_builtins
from registry.model.status import Status, StatusSpec
from tests.node_proxy.agent.documents import TRUST_DOMAIN, changed

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def external(name: str = "ext", namespace: str = "default", **spec: Any) -> ExternalService:
    """Give an external service, resolved unless `spec` says otherwise."""
    spec = {"hosts": ["api.example.com", "b.example"], "ports": [{"number": 80, "targetPort": 8080}]} | spec
    metadata = {"name": name, "namespace": namespace}
    document = {"apiVersion": "nodemesh/v1", "kind": "ExternalService", "metadata": metadata, "spec": spec}
    resource = from_builtins(document, where="test")
    assert isinstance(resource, ExternalService)
    return resource


def state_of(*externals: ExternalService) -> MeshState:
    state = MeshState(trust_domain=TRUST_DOMAIN)
    for number, each in enumerate(externals, start=2):
        metadata = each.metadata
        place = f"externalservices/{metadata.namespace}/{metadata.name}"
        state.apply(changed(place, each, number))
        vips = Status(
            api_version="nodemesh/v1",
            kind="Status",
            metadata=msgspec.structs.replace(metadata, labels={}, annotations={}),
            spec=StatusSpec(revision=number, accepted=True, vips=(f"240.240.0.{number}",)),
        )
        state.apply(changed(f"status/{place}", vips, number))
    return state


def view(each: ExternalService, *resolved: str) -> ExternalServiceView:
    (found,) = external_views(state_of(each), lambda name: resolved if name == "api.example.com" else ())
    return found


def test_resolved() -> None:
    """An external service has its hosts, its virtual IPs, its ports, and what its first host resolves to."""
    found = view(external(), "192.0.2.7", "2001:db8::7")
    assert (found.name, found.hosts) == ("default/ext", ("api.example.com", "b.example"))
    assert found.vips == ("240.240.0.2",)
    assert (found.ports[0].port, found.ports[0].target) == (80, 8080)
    assert found.addresses == ("192.0.2.7", "2001:db8::7")
    assert (found.server_name, found.allowed) == (None, None)
    assert list(names_to_resolve(state_of(external()))) == ["api.example.com"]


def test_static() -> None:
    """With addresses of its own nothing is resolved."""
    each = external(resolution="STATIC", endpoints=[{"address": "192.0.2.9"}])
    assert view(each, "192.0.2.7").addresses == ("192.0.2.9",)
    assert list(names_to_resolve(state_of(each))) == []


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "169.254.169.254", "240.240.0.7", "fd6d:6573:6800::7", "fe80::1"]
)
def test_never_back(address: str) -> None:
    """Whoever answers for its name cannot lead the proxy to itself, its link, or a virtual IP."""
    assert view(external(), address, "192.0.2.7").addresses == ("192.0.2.7",)


@pytest.mark.parametrize(
    ("tls", "server_name", "roots"),
    [
        ({}, None, ""),
        ({"mode": "SIMPLE"}, "api.example.com", ""),
        ({"mode": "SIMPLE", "sni": "c.example", "caCertificates": PEM}, "c.example", PEM),
    ],
)
def test_tls(tls: dict[str, str], server_name: str | None, roots: str) -> None:
    """Workers are told what to verify, and whom to believe if not the host's roots."""
    found = view(external(tls=tls))
    assert (found.server_name, found.roots_pem) == (server_name, roots)


def test_allowed() -> None:
    """Nobody allowed is another thing than nothing said."""
    assert view(external(allowedPrincipals=[])).allowed == ()
    assert view(external(allowedPrincipals=["nodemesh.local/ns/a/sa/*"])).allowed == (
        "nodemesh.local/ns/a/sa/*",
    )


def test_order() -> None:
    """They come by name, so that of two with one host the first by name has it, as the controller says."""
    state = state_of(external("b"), external("a"), external("z", "a"))
    assert [each.name for each in external_views(state, lambda _: ())] == ["a/z", "default/a", "default/b"]

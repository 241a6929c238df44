"""What an ExternalService may not say."""

from typing import Any

import pytest

from registry.model.external_service import ExternalService
from registry.model.parse import from_builtins
from tests.registry.model.documents import EXTERNAL, refusal, refused_path, with_spec

PEM = "-----BEGIN CERTIFICATE-----\nMIIBszCC\n-----END CERTIFICATE-----\n"


def parsed(**spec: Any) -> ExternalService:
    resource = from_builtins(with_spec(EXTERNAL, **spec), where="key")
    assert isinstance(resource, ExternalService)
    return resource


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"ports": [{"number": 80, "targetPort": 8080, "name": "http", "protocol": "http"}]},
        {"resolution": "STATIC", "endpoints": [{"address": "192.0.2.7"}, {"address": "2001:db8::7"}]},
        {"tls": {"mode": "SIMPLE"}},
        {"tls": {"mode": "SIMPLE", "sni": "other.example", "caCertificates": PEM + "\n# second\n" + PEM}},
        {"ports": [{"number": 443, "protocol": "tls"}]},
        {"allowedPrincipals": []},
        {"allowedPrincipals": ["nodemesh.local/ns/shop/sa/*", "nodemesh.local/ns/default/sa/web"]},
    ],
)
def test_accepted(spec: dict[str, Any]) -> None:
    """What can be meant is accepted."""
    parsed(**spec)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"hosts": []}, "spec.hosts"),
        ({"hosts": [f"h{n}.example" for n in range(17)]}, "spec.hosts"),
        ({"hosts": ["a.example", "a.example"]}, "spec.hosts[1]"),
        ({"hosts": ["API.example.com"]}, "spec.hosts[0]"),
        ({"hosts": ["localhost"]}, "spec.hosts[0]"),
        ({"hosts": ["*.example.com"]}, "spec.hosts[0]"),
        ({"hosts": ["192.0.2.7"]}, "spec.hosts[0]"),
        ({"hosts": ["a.example\n"]}, "spec.hosts[0]"),
        ({"ports": []}, "spec.ports"),
        ({"ports": [{"number": 80}, {"number": 80}]}, "spec.ports[1].number"),
        ({"ports": [{"number": 80, "name": "a"}, {"number": 81, "name": "a"}]}, "spec.ports[1].name"),
        ({"ports": [{"port": 80}]}, "spec.ports[0].port"),
        ({"endpoints": [{"address": "192.0.2.7"}]}, "spec.endpoints"),
        ({"resolution": "STATIC"}, "spec.endpoints"),
        ({"resolution": "STATIC", "endpoints": [{"address": "db"}]}, "spec.endpoints[0].address"),
        ({"tls": {"sni": "a.example"}}, "spec.tls.sni"),
        ({"tls": {"caCertificates": PEM}}, "spec.tls.caCertificates"),
        ({"tls": {"mode": "SIMPLE", "caCertificates": "/etc/ssl/ca.pem"}}, "spec.tls.caCertificates"),
        ({"tls": {"mode": "SIMPLE", "caCertificates": PEM[:-5]}}, "spec.tls.caCertificates"),
        ({"tls": {"mode": "SIMPLE", "caCertificates": PEM * 2000}}, "spec.tls.caCertificates"),
        ({"tls": {"mode": "MUTUAL"}}, "spec.tls.mode"),
        (
            {"tls": {"mode": "SIMPLE"}, "ports": [{"number": 443, "protocol": "tls"}]},
            "spec.ports[0].protocol",
        ),
        ({"allowedPrincipals": ["spiffe://nodemesh.local/ns/a/sa/b"]}, "spec.allowedPrincipals[0]"),
        ({"allowedPrincipals": ["nodemesh.local/node/web-1"]}, "spec.allowedPrincipals[0]"),
        ({"location": "MESH_EXTERNAL"}, "spec.location"),
    ],
)
def test_refused(spec: dict[str, Any], path: str) -> None:
    """What cannot be meant is refused, and the field is named."""
    assert refused_path(with_spec(EXTERNAL, **spec)) == path


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "0.0.0.1", "169.254.169.254", "224.0.0.1", "240.240.0.7", "255.255.255.255", "::1", "::",
     "::ffff:127.0.0.1", "fe80::1", "ff02::1"],
)  # fmt: skip
def test_no_way_back_in(address: str) -> None:
    """No endpoint leads to the proxy's own host, its link, a crowd, or a virtual IP."""
    endpoints = [{"address": address}]
    path = refused_path(with_spec(EXTERNAL, resolution="STATIC", endpoints=endpoints))
    assert path == "spec.endpoints[0].address"


def test_private_key() -> None:
    """A private key among the roots is named for what it is."""
    key = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"
    error = refusal(with_spec(EXTERNAL, tls={"mode": "SIMPLE", "caCertificates": PEM + key}))
    assert "private key" in error.reason


def test_server_name() -> None:
    """TLS asks for the first host unless another name is said."""
    assert parsed(hosts=["a.example", "b.example"]).server_name == "a.example"
    assert parsed(tls={"mode": "SIMPLE", "sni": "c.example"}).server_name == "c.example"

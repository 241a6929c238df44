from typing import Any

import pytest

from registry.cli.summary import summarise


def _document(kind: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    version = "nodemesh/v1" if kind in ("Mesh", "Service", "ExternalService") else "security.istio.io/v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "x", **metadata}, "spec": spec}


@pytest.mark.parametrize(
    ("document", "summary"),
    [
        (_document("AuthorizationPolicy", {}), "ALLOW, no rules, on every workload"),
        (
            _document("AuthorizationPolicy", {"action": "DENY", "rules": [{}], "dryRun": True}),
            "DENY, 1 rule, on every workload, dry run",
        ),
        (
            _document("AuthorizationPolicy", {"rules": [{}]}, annotations={"istio.io/dry-run": "true"}),
            "ALLOW, 1 rule, on every workload, dry run",
        ),
        (
            _document("AuthorizationPolicy", {"targetRefs": [{"kind": "Service", "name": "web"}]}),
            "ALLOW, no rules, on default/web",
        ),
        (_document("PeerAuthentication", {"mtls": {"mode": "STRICT"}}), "STRICT, on every workload"),
        (
            _document(
                "PeerAuthentication",
                {
                    "selector": {"matchLabels": {"app": "api"}},
                    "portLevelMtls": {"80": {"mode": "PERMISSIVE"}},
                },
            ),
            "UNSET, port 80 PERMISSIVE, on app=api",
        ),
        (
            _document("ExternalService", {"hosts": ["a.example"], "ports": [{"number": 443}]}),
            "443/tcp → a.example, for any identity",
        ),
        (
            _document(
                "ExternalService",
                {
                    "hosts": ["a.example", "b.example"],
                    "ports": [{"number": 80, "targetPort": 443, "protocol": "http"}],
                    "resolution": "STATIC",
                    "endpoints": [{"address": "192.0.2.7"}],
                    "tls": {"mode": "SIMPLE"},
                    "allowedPrincipals": ["mesh.test/ns/a/sa/b"],
                },
            ),
            "80→443/http → a.example, b.example at 192.0.2.7, TLS by the proxy, for mesh.test/ns/a/sa/b",
        ),
        ({"kind": "Other"}, "Other (not known to this meshctl)"),
    ],
)
def test_summary(document: dict[str, Any], summary: str) -> None:
    """A resource in one line says what it does, and to what."""
    assert summarise(document) == summary


def test_mesh() -> None:
    """The mesh in one line says what holds where nothing else is said."""
    spec = {"trustDomain": "mesh.test", "mtlsMode": "PERMISSIVE"}
    metadata = {"name": "mesh", "namespace": "nodemesh-system"}
    document = {"apiVersion": "nodemesh/v1", "kind": "Mesh", "metadata": metadata, "spec": spec}
    assert summarise(document) == "trust domain mesh.test, default allow, PERMISSIVE"

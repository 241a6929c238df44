from typing import Any

import pytest

from registry.cli.summary import summarise


def _document(kind: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    ours = ("Mesh", "Service", "ExternalService", "BackendPolicy")
    version = "nodemesh/v1" if kind in ours else "security.istio.io/v1"
    if kind.endswith("Route"):
        version = f"gateway.networking.k8s.io/{'v1alpha2' if kind == 'TCPRoute' else 'v1'}"
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
        (
            _document(
                "HTTPRoute",
                {
                    "parentRefs": [{"name": "web", "port": 80}],
                    "hostnames": ["a.example"],
                    "rules": [
                        {
                            "backendRefs": [
                                {"name": "v1", "port": 80, "weight": 90},
                                {"name": "v2", "port": 80, "weight": 10},
                            ]
                        },
                        {"filters": [{"type": "RequestRedirect", "requestRedirect": {"port": 1}}]},
                    ],
                },
            ),
            "web:80 for a.example → v1:80 90 %, v2:80 10 %, a redirect, 2 rules",
        ),
        (
            _document("HTTPRoute", {"parentRefs": [{"name": each} for each in "abcde"]}),
            "a, b, c and 2 more → nowhere, 1 rule",
        ),
        (
            _document(
                "GRPCRoute",
                {
                    "parentRefs": [{"name": "web", "namespace": "shop"}],
                    "rules": [{"backendRefs": [{"name": "v1", "port": 80}]}],
                },
            ),
            "shop/web → v1:80, 1 rule",
        ),
        (
            _document(
                "TCPRoute",
                {"parentRefs": [{"name": "db"}], "rules": [{"backendRefs": [{"name": "db2", "port": 5432}]}]},
            ),
            "db → db2:5432",
        ),
        (
            _document("BackendPolicy", {"targetRefs": [{"kind": "Service", "name": "web"}]}),
            "web: nothing set",
        ),
        (
            _document(
                "BackendPolicy",
                {
                    "targetRefs": [{"kind": "Service", "name": "web"}],
                    "loadBalancing": {"policy": "LeastRequest"},
                    "timeouts": {"connect": "1s"},
                    "rateLimits": [{"name": "a", "requests": 1}],
                    "faults": [{"name": each, "delay": {"percent": 1, "duration": "1s"}} for each in "ab"],
                },
            ),
            "web: LeastRequest, timeouts, 1 rate limit, 2 faults",
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

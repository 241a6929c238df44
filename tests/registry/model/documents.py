"""Documents that the tests of the model bend in one place at a time."""

from typing import Any

import msgspec

from registry.errors import InvalidResource
from registry.model.parse import from_builtins, parse

SERVICE: dict[str, Any] = {
    "apiVersion": "nodemesh/v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}},
}

EXTERNAL: dict[str, Any] = {
    "apiVersion": "nodemesh/v1",
    "kind": "ExternalService",
    "metadata": {"name": "stripe"},
    "spec": {"hosts": ["api.stripe.example"], "ports": [{"number": 443}]},
}

POLICY: dict[str, Any] = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "web"},
    "spec": {},
}

PEERS: dict[str, Any] = {
    "apiVersion": "security.istio.io/v1",
    "kind": "PeerAuthentication",
    "metadata": {"name": "web"},
    "spec": {"mtls": {"mode": "STRICT"}},
}

HTTP_ROUTE: dict[str, Any] = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "web"},
    "spec": {
        "parentRefs": [{"kind": "Service", "group": "", "name": "web"}],
        "rules": [{"backendRefs": [{"name": "web", "port": 80}]}],
    },
}

GRPC_ROUTE: dict[str, Any] = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "GRPCRoute",
    "metadata": {"name": "web"},
    "spec": {
        "parentRefs": [{"kind": "Service", "group": "", "name": "web"}],
        "rules": [{"backendRefs": [{"name": "web", "port": 80}]}],
    },
}

TCP_ROUTE: dict[str, Any] = {
    "apiVersion": "gateway.networking.k8s.io/v1alpha2",
    "kind": "TCPRoute",
    "metadata": {"name": "web"},
    "spec": {
        "parentRefs": [{"kind": "Service", "group": "", "name": "web"}],
        "rules": [{"backendRefs": [{"name": "web", "port": 80}]}],
    },
}

BACKEND_POLICY: dict[str, Any] = {
    "apiVersion": "nodemesh/v1",
    "kind": "BackendPolicy",
    "metadata": {"name": "web"},
    "spec": {"targetRefs": [{"kind": "Service", "name": "web"}]},
}

MESH: dict[str, Any] = {
    "apiVersion": "nodemesh/v1",
    "kind": "Mesh",
    "metadata": {"name": "mesh", "namespace": "nodemesh-system"},
    "spec": {},
}

WORKLOAD: dict[str, Any] = {
    "apiVersion": "nodemesh/v1",
    "kind": "Workload",
    "metadata": {"name": "web"},
    "spec": {"node": "n1", "identity": "spiffe://nodemesh.local/ns/default/sa/web", "ports": [80]},
}


def with_spec(document: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Give the document with some fields of its spec replaced."""
    return {**document, "spec": {**document["spec"], **fields}}


def with_metadata(document: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Give the document with some fields of its metadata replaced."""
    return {**document, "metadata": {**document["metadata"], **fields}}


def with_source(**fields: Any) -> dict[str, Any]:
    """Give a policy with one rule about who calls."""
    return with_spec(POLICY, rules=[{"from": [{"source": fields}]}])


def with_operation(**fields: Any) -> dict[str, Any]:
    """Give a policy with one rule about what is called."""
    return with_spec(POLICY, rules=[{"to": [{"operation": fields}]}])


def refused_path(document: object) -> str | None:
    """Give the path of the error; None when the document parses."""
    try:
        from_builtins(document, where="key")
    except InvalidResource as error:
        return error.path
    return None


def refusal(document: object) -> InvalidResource:
    """Parse what must not parse; gives the error."""
    data = document if isinstance(document, bytes) else msgspec.json.encode(document)
    try:
        parse(data, where="key")
    except InvalidResource as error:
        return error
    raise AssertionError(f"parsed: {data!r}")

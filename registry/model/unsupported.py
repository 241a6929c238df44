"""What Istio and Kubernetes have and this mesh has not, by name.

Pure. An ignored condition would open a door, so each is refused; the mend says what leaving it out means.
"""

import enum
from collections.abc import Mapping
from typing import Final

from registry.model import (
    authorization,
    backend_policy,
    gateway,
    grpc_route,
    http_route,
    peer_authentication,
    resource,
    tcp_route,
)

_TOKENS: Final = "request tokens are not supported; match callers by principals or namespaces"
_CLUSTER: Final = "remove it: a cluster wrote it, and it means nothing here"
_EXTENSION: Final = "remove it: there are no extensions here"
_STICKY: Final = "write loadBalancing.stickySession in a BackendPolicy for the Service"
_OF_BACKENDS: Final = "write it in a BackendPolicy for the Service"
_NO_GATEWAY: Final = "write kind Service: routes attach to Services, and there are no gateways here"
_GATEWAY: Final = "write kind Service, or select workloads by labels: there are no gateways here"

# For each struct, the fields that people may bring along, and the mend.
UNSUPPORTED_FIELDS: Final[Mapping[type, Mapping[str, str]]] = {
    authorization.Source: {"requestPrincipals": _TOKENS, "notRequestPrincipals": _TOKENS},
    authorization.TargetRef: {
        "sectionName": (
            "remove it: it is for all ports of the Service (an AuthorizationPolicy may name the workload's "
            "port under to.operation.ports)"
        )
    },
    authorization.AuthorizationPolicySpec: {
        "targetRef": "write targetRefs, a list",
        "provider": "remove it and write action ALLOW, DENY or AUDIT: CUSTOM is not supported",
    },
    authorization.AuthorizationPolicy: {"status": _CLUSTER},
    peer_authentication.PeerAuthentication: {"status": _CLUSTER},
    http_route.HTTPRouteSpec: {"useDefaultGateways": _NO_GATEWAY},
    http_route.HTTPRouteRule: {"sessionPersistence": _STICKY},
    http_route.HTTPRouteFilter: {
        "extensionRef": _EXTENSION,
        "externalAuth": "write an AuthorizationPolicy: external authorization is not supported",
    },
    http_route.HTTPRoute: {"status": _CLUSTER},
    grpc_route.GRPCRouteSpec: {"useDefaultGateways": _NO_GATEWAY},
    grpc_route.GRPCRouteRule: {
        "sessionPersistence": _STICKY,
        "timeouts": _OF_BACKENDS,
        "retry": f"{_OF_BACKENDS}, as retries",
    },
    grpc_route.GRPCRouteFilter: {
        "extensionRef": _EXTENSION,
        **dict.fromkeys(
            ("requestRedirect", "urlRewrite", "cors"),
            "remove it, or write an HTTPRoute: gRPC has no such thing",
        ),
    },
    grpc_route.GRPCMethodMatch: {"path": "write service and method"},
    grpc_route.GRPCRoute: {"status": _CLUSTER},
    tcp_route.TCPRouteSpec: {"useDefaultGateways": _NO_GATEWAY},
    tcp_route.TCPRouteRule: {
        "matches": "remove it: a TCPRoute leads whole connections; write an HTTPRoute to tell requests apart",
        "filters": "remove it: a TCPRoute changes nothing; write an HTTPRoute to change requests",
    },
    tcp_route.TCPRoute: {"status": _CLUSTER},
    backend_policy.BackendPolicySpec: {
        "targetRef": "write targetRefs, a list",
        "sessionPersistence": "write loadBalancing.stickySession",
        "retryConstraint": "write retries.budget",
    },
    backend_policy.BackendPolicy: {"status": _CLUSTER},
    resource.Metadata: dict.fromkeys(
        (
            "creationTimestamp",
            "deletionTimestamp",
            "finalizers",
            "generateName",
            "generation",
            "managedFields",
            "ownerReferences",
            "resourceVersion",
            "selfLink",
            "uid",
        ),
        _CLUSTER,
    ),
}

# Values likewise: for each enumeration, what people may bring along, and the mend.
UNSUPPORTED_VALUES: Final[Mapping[type[enum.Enum], Mapping[str, str]]] = {
    authorization.Action: {
        "CUSTOM": "write ALLOW, DENY or AUDIT: external authorization is not supported",
    },
    authorization.TargetKind: dict.fromkeys(("Gateway", "GatewayClass", "ServiceEntry"), _GATEWAY),
    gateway.ReferentKind: {
        **dict.fromkeys(("Gateway", "ListenerSet", "XListenerSet"), _NO_GATEWAY),
        "ServiceImport": "write kind Service: there is one mesh, and no import",
    },
    http_route.FilterType: {
        "ExtensionRef": _EXTENSION,
        "ExternalAuth": "write an AuthorizationPolicy: external authorization is not supported",
    },
    grpc_route.GRPCFilterType: {
        "ExtensionRef": _EXTENSION,
        **dict.fromkeys(
            ("RequestRedirect", "URLRewrite", "CORS"),
            "remove it, or write an HTTPRoute: gRPC has no such thing",
        ),
    },
    peer_authentication.MtlsMode: {
        "DISABLE": "write PERMISSIVE, which lets in callers without identity; tunnels are always mutual TLS",
    },
}

# Keys of `when`, by how they begin.
UNSUPPORTED_KEYS: Final[Mapping[str, str]] = {
    "request.auth.": _TOKENS,
    "request.headers": "write request.headers[<name>], as in request.headers[x-team]",
    "request.experimental.": "write request.headers[<name>]",
    "experimental.": "remove it: Envoy's metadata means nothing here",
}

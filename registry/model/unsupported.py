"""What Istio and Kubernetes have and this mesh has not, by name.

Pure. An ignored condition would open a door, so each is refused; the mend says what leaving it out means.
"""

import enum
from collections.abc import Mapping
from typing import Final

from registry.model import authorization, peer_authentication, resource

_TOKENS: Final = "request tokens are not supported; match callers by principals or namespaces"
_CLUSTER: Final = "remove it: a cluster wrote it, and it means nothing here"
_GATEWAY: Final = "write kind Service, or select workloads by labels: there are no gateways here"

# For each struct, the fields that people may bring along, and the mend.
UNSUPPORTED_FIELDS: Final[Mapping[type, Mapping[str, str]]] = {
    authorization.Source: {"requestPrincipals": _TOKENS, "notRequestPrincipals": _TOKENS},
    authorization.TargetRef: {
        "sectionName": "remove it, and name the workload's port under to.operation.ports"
    },
    authorization.AuthorizationPolicySpec: {
        "targetRef": "write targetRefs, a list",
        "provider": "remove it and write action ALLOW, DENY or AUDIT: CUSTOM is not supported",
    },
    authorization.AuthorizationPolicy: {"status": _CLUSTER},
    peer_authentication.PeerAuthentication: {"status": _CLUSTER},
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

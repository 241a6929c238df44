"""What Istio and Kubernetes have and this mesh has not, by name.

Pure. An ignored condition would open a door, so each is refused; the mend says what leaving it out means.
"""

from collections.abc import Mapping
from typing import Final

from registry.model import authorization, resource

_LAYER_7: Final = (
    "conditions on HTTP are not supported yet; without it the rule covers every request on its ports, "
    "so remove it only if that is meant"
)
_ADDRESSES: Final = "match callers by principals or namespaces: addresses prove nothing in this mesh"
_TOKENS: Final = "request tokens are not supported; match callers by principals or namespaces"
_ACCOUNTS: Final = "write it under principals, as <trust domain>/ns/<namespace>/sa/<account>"
_TARGETS: Final = "select workloads by labels, with selector.matchLabels"
_CLUSTER: Final = "remove it: a cluster wrote it, and it means nothing here"

# For each struct, the fields that people may bring along, and the mend.
UNSUPPORTED_FIELDS: Final[Mapping[type, Mapping[str, str]]] = {
    authorization.Source: {
        "ipBlocks": _ADDRESSES,
        "notIpBlocks": _ADDRESSES,
        "remoteIpBlocks": _ADDRESSES,
        "notRemoteIpBlocks": _ADDRESSES,
        "requestPrincipals": _TOKENS,
        "notRequestPrincipals": _TOKENS,
        "serviceAccounts": _ACCOUNTS,
        "notServiceAccounts": _ACCOUNTS.replace("principals", "notPrincipals"),
    },
    authorization.Operation: dict.fromkeys(
        ("methods", "notMethods", "paths", "notPaths", "hosts", "notHosts"), _LAYER_7
    ),
    authorization.Rule: {"when": _LAYER_7},
    authorization.AuthorizationPolicySpec: {
        "targetRef": _TARGETS,
        "targetRefs": _TARGETS,
        "provider": "remove it and write action ALLOW, DENY or AUDIT: CUSTOM is not supported",
    },
    authorization.AuthorizationPolicy: {"status": _CLUSTER},
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

# Values of `action` likewise.
UNSUPPORTED_ACTIONS: Final[Mapping[str, str]] = {
    "CUSTOM": "write ALLOW, DENY or AUDIT: external authorization is not supported",
}

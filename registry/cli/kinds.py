"""The words by which people name kinds and single resources on a command line. Pure."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from registry.model.authorization import AuthorizationPolicy
from registry.model.backend_policy import BackendPolicy
from registry.model.external_service import ExternalService
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.identity import LABEL
from registry.model.mesh import Mesh
from registry.model.parse import OPERATOR_KINDS
from registry.model.peer_authentication import PeerAuthentication
from registry.model.resource import DEFAULT_NAMESPACE, ROOT_NAMESPACE, Resource
from registry.model.service import Service
from registry.model.tcp_route import TCPRoute
from registry.store.keys import ResourceKey

# There is one mesh, and this is its name.
MESH_NAME = "mesh"

_SHORT: dict[str, type[Resource]] = {
    "svc": Service,
    "es": ExternalService,
    "ap": AuthorizationPolicy,
    "authz": AuthorizationPolicy,
    "pa": PeerAuthentication,
    "hr": HTTPRoute,
    "gr": GRPCRoute,
    "tr": TCPRoute,
    "bp": BackendPolicy,
}

# Kinds people may look for here, and where they are.
_ELSEWHERE = {
    "node": "meshctl node list",
    "nodes": "meshctl node list",
    "workload": "meshctl node list -o wide",
    "workloads": "meshctl node list -o wide",
    "endpoint": "meshctl service get NAME",
    "endpoints": "meshctl service get NAME",
    "proxy": "meshctl proxy status",
    "token": "meshctl node token create",
}


class InvalidTarget(ValueError):
    """Words that name no kind or no resource; the message says what to write."""


@dataclass(frozen=True, slots=True)
class Target:
    """A kind, and where they were said with it (``svc/web``, ``svc/default/web``) a namespace and a name."""

    kind: type[Resource]
    namespace: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class QualifiedName:
    """A name, and the namespace where one was said with it."""

    namespace: str | None
    name: str


def kind_words() -> dict[str, type[Resource]]:
    """Give every word for every kind: plural, singular and short."""
    words = {word: kind for kind in OPERATOR_KINDS for word in (kind.PLURAL, kind.KIND.lower())}
    return words | _SHORT


def parse_target(text: str) -> Target:
    """Read ``KIND``, ``KIND/NAME`` or ``KIND/NAMESPACE/NAME``; upper and lower case are the same.

    Raises:
        InvalidTarget: an unknown kind, or something that cannot be a name.
    """
    word, *rest = text.split("/")
    kind = parse_kind(word)
    match rest:
        case []:
            return Target(kind)
        case [name]:
            return Target(kind, None, _check_label(name))
        case [namespace, name]:
            return Target(kind, _check_label(namespace), _check_label(name))
        case _:
            raise InvalidTarget(f"{text!r} names no resource; write KIND/NAMESPACE/NAME")


def parse_kind(word: str) -> type[Resource]:
    """Read the word for a kind.

    Raises:
        InvalidTarget: an unknown kind.
    """
    words = kind_words()
    lowered = word.lower()
    if lowered in words:
        return words[lowered]
    if lowered in _ELSEWHERE:
        raise InvalidTarget(f"{word!r} is not written by operators; try `{_ELSEWHERE[lowered]}`")
    close = difflib.get_close_matches(lowered, words, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise InvalidTarget(f"there is no kind {word!r}; {guess}Kinds: {', '.join(_names(OPERATOR_KINDS))}")


def parse_name(text: str) -> QualifiedName:
    """Read ``NAME`` or ``NAMESPACE/NAME``.

    Raises:
        InvalidTarget: a part that cannot be a name.
    """
    namespace, slash, name = text.rpartition("/")
    return QualifiedName(_check_label(namespace) if slash else None, _check_label(name))


def locate(kind: type[Resource], namespace: str | None, name: str) -> ResourceKey:
    """Give a resource's key; without a namespace in the default one, for the mesh the root namespace."""
    fallback = ROOT_NAMESPACE if kind is Mesh else DEFAULT_NAMESPACE
    return ResourceKey(kind.PLURAL, namespace or fallback, name)


def label_of(key: ResourceKey) -> str:
    """Write a key as people see and type it: ``services/default/web``."""
    return f"{key.plural}/{key.namespace}/{key.name}"


def _names(kinds: Iterable[type[Resource]]) -> list[str]:
    shorts: dict[type[Resource], list[str]] = {}
    for short, kind in _SHORT.items():
        shorts.setdefault(kind, []).append(short)
    return [f"{kind.PLURAL} ({', '.join(shorts[kind])})" if kind in shorts else kind.PLURAL for kind in kinds]


def _check_label(text: str) -> str:
    if not LABEL.match(text):
        raise InvalidTarget(f"{text!r} cannot be a name; names are lower-case letters, digits and dashes")
    return text

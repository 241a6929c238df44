"""TCPRoute in Gateway API's shape: where the connections to a Service's port go.

Source: gateway.networking.k8s.io/v1alpha2, TCPRoute.
"""

from typing import Annotated, ClassVar

from msgspec import Meta

from registry.model.gateway import BackendReference, ParentReference, Weight
from registry.model.resource import Name, Resource, Strict


class TCPBackendRef(BackendReference, frozen=True, kw_only=True):
    """A backend and its share of the connections."""

    weight: Weight = 1


class TCPRouteRule(Strict, frozen=True, kw_only=True):
    """Where connections go."""

    name: Name | None = None
    backend_refs: Annotated[tuple[TCPBackendRef, ...], Meta(min_length=1, max_length=16)]


class TCPRouteSpec(Strict, frozen=True, kw_only=True):
    """One rule: with nothing to match, a second would never be asked."""

    parent_refs: Annotated[tuple[ParentReference, ...], Meta(min_length=1, max_length=32)]
    rules: Annotated[tuple[TCPRouteRule, ...], Meta(min_length=1, max_length=1)]


class TCPRoute(Resource, frozen=True, kw_only=True):
    """Where the connections to a Service's port go."""

    API_VERSIONS: ClassVar[tuple[str, ...]] = (
        "gateway.networking.k8s.io/v1alpha2",
        "gateway.networking.k8s.io/v1",
    )
    KIND: ClassVar[str] = "TCPRoute"
    PLURAL: ClassVar[str] = "tcproutes"

    spec: TCPRouteSpec

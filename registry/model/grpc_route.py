"""GRPCRoute in Gateway API's shape: which calls of a Service's methods go where.

Source: gateway.networking.k8s.io/v1, GRPCRoute.
"""

import enum
from typing import Annotated, ClassVar

from msgspec import Meta

from registry.model.gateway import (
    BackendReference,
    HeaderMatch,
    HeaderModifier,
    Hostname,
    MatchType,
    ParentReference,
    RequestMirror,
    Weight,
)
from registry.model.resource import Name, Resource, Strict


class GRPCMethodMatch(Strict, frozen=True, kw_only=True):
    """A service, a method, or a method of a service."""

    type: MatchType = MatchType.EXACT
    service: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None
    method: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None


class GRPCRouteMatch(Strict, frozen=True, kw_only=True):
    """All that is given must hold."""

    method: GRPCMethodMatch | None = None
    headers: tuple[HeaderMatch, ...] = ()


class GRPCFilterType(enum.Enum):
    """What a filter does."""

    REQUEST_HEADER_MODIFIER = "RequestHeaderModifier"
    RESPONSE_HEADER_MODIFIER = "ResponseHeaderModifier"
    REQUEST_MIRROR = "RequestMirror"


class GRPCRouteFilter(Strict, frozen=True, kw_only=True):
    """One change; the field that belongs to `type` is given, and no other."""

    type: GRPCFilterType
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    request_mirror: RequestMirror | None = None


class GRPCBackendRef(BackendReference, frozen=True, kw_only=True):
    """A backend, its share of the calls, and changes to those that go there."""

    weight: Weight = 1
    filters: tuple[GRPCRouteFilter, ...] = ()


class GRPCRouteRule(Strict, frozen=True, kw_only=True):
    """Any of `matches` must match; none given match everything."""

    name: Name | None = None
    matches: Annotated[tuple[GRPCRouteMatch, ...], Meta(max_length=64)] = ()
    filters: Annotated[tuple[GRPCRouteFilter, ...], Meta(max_length=16)] = ()
    backend_refs: Annotated[tuple[GRPCBackendRef, ...], Meta(max_length=16)] = ()


class GRPCRouteSpec(Strict, frozen=True, kw_only=True):
    """`parent_refs` are the Services whose calls it concerns; no `hostnames` are all hosts."""

    parent_refs: Annotated[tuple[ParentReference, ...], Meta(min_length=1, max_length=32)]
    hostnames: Annotated[tuple[Hostname, ...], Meta(max_length=16)] = ()
    rules: Annotated[tuple[GRPCRouteRule, ...], Meta(min_length=1, max_length=16)] = (GRPCRouteRule(),)


class GRPCRoute(Resource, frozen=True, kw_only=True):
    """Which calls of a Service's methods go where."""

    API_VERSIONS: ClassVar[tuple[str, ...]] = (
        "gateway.networking.k8s.io/v1",
        "gateway.networking.k8s.io/v1alpha2",
    )
    KIND: ClassVar[str] = "GRPCRoute"
    PLURAL: ClassVar[str] = "grpcroutes"

    spec: GRPCRouteSpec

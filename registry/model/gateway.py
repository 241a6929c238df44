"""What Gateway API's routes have in common: what they attach to, and where they lead.

Routes attach to Services, as in the GAMMA initiative (Gateway API for mesh): there are no gateways here. A
route in its Service's namespace concerns every caller, one in another namespace the callers from there.
Source: gateway.networking.k8s.io, v1.
"""

import enum
from typing import Annotated, Final

from msgspec import Meta

from registry.model.resource import Name, Port, Strict

GATEWAY_GROUP: Final = "gateway.networking.k8s.io"
# RFC 9110 section 5.6.2, and Gateway API's limit.
HEADER_NAME_PATTERN: Final = r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,256}\Z"
HeaderName = Annotated[str, Meta(pattern=HEADER_NAME_PATTERN)]
HeaderValue = Annotated[str, Meta(min_length=1, max_length=4096)]
# RFC 1123, lower case, as Gateway API's PreciseHostname.
PRECISE_HOSTNAME_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z"
PreciseHostname = Annotated[str, Meta(max_length=253, pattern=PRECISE_HOSTNAME_PATTERN)]
HOSTNAME_PATTERN: Final = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z"
Hostname = Annotated[str, Meta(max_length=253, pattern=HOSTNAME_PATTERN)]
Weight = Annotated[int, Meta(ge=0, le=1_000_000)]


class ReferentKind(enum.Enum):
    """What a route may attach to, and what it may lead to."""

    SERVICE = "Service"


class MatchType(enum.Enum):
    """How a header or a query parameter is compared."""

    EXACT = "Exact"
    REGULAR_EXPRESSION = "RegularExpression"


class ParentReference(Strict, frozen=True, kw_only=True):
    """The Service that a route attaches to; `port` is one of its ports, None all that speak the protocol.

    `namespace` is the route's own unless given.
    """

    name: Name
    kind: ReferentKind = ReferentKind.SERVICE
    group: str = ""
    namespace: Name | None = None
    port: Port | None = None
    section_name: Name | None = None


class BackendReference(Strict, frozen=True, kw_only=True):
    """A port of a Service of the route's namespace that requests may go to."""

    name: Name
    port: Port
    kind: ReferentKind = ReferentKind.SERVICE
    group: str = ""
    namespace: Name | None = None


class Header(Strict, frozen=True, kw_only=True):
    """A header to set or to add."""

    name: HeaderName
    value: HeaderValue


class HeaderModifier(Strict, frozen=True, kw_only=True):
    """`set` replaces what is there, `add` appends, `remove` takes away; in this order."""

    set: tuple[Header, ...] = ()
    add: tuple[Header, ...] = ()
    remove: tuple[HeaderName, ...] = ()


class HeaderMatch(Strict, frozen=True, kw_only=True):
    """A header that a request must have; upper and lower case are the same in its name."""

    name: HeaderName
    value: HeaderValue
    type: MatchType = MatchType.EXACT


class Fraction(Strict, frozen=True, kw_only=True):
    """So many of so many."""

    numerator: Annotated[int, Meta(ge=0)]
    denominator: Annotated[int, Meta(ge=1)] = 100


class RequestMirror(Strict, frozen=True, kw_only=True):
    """Copies requests to `backend_ref`, and throws the answers away; all of them unless a share is given."""

    backend_ref: BackendReference
    percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    fraction: Fraction | None = None

"""Routes that the tests of the model bend in one place at a time."""

from typing import Any

from tests.registry.model.documents import GRPC_ROUTE, HTTP_ROUTE, with_spec

PARENT = {"name": "web"}
BACKEND = {"name": "web", "port": 80}
RULE = "spec.rules[0]"
MATCH = f"{RULE}.matches[0]"
FILTER = f"{RULE}.filters[0]"
NOT_SUPPORTED = "is not supported"


def rule(**fields: Any) -> dict[str, Any]:
    """Give an HTTPRoute of one rule."""
    return with_spec(HTTP_ROUTE, rules=[{"backendRefs": [BACKEND], **fields}])


def match(**fields: Any) -> dict[str, Any]:
    """Give an HTTPRoute of one match."""
    return rule(matches=[fields])


def path(value: str, kind: str = "PathPrefix") -> dict[str, Any]:
    """Give an HTTPRoute that matches a path."""
    return match(path={"type": kind, "value": value})


def header(value: str = "x", **fields: Any) -> dict[str, Any]:
    """Give an HTTPRoute that matches a header."""
    return match(headers=[{"name": "x-team", "value": value, **fields}])


def filtered(kind: str, **fields: Any) -> dict[str, Any]:
    """Give an HTTPRoute with one filter."""
    return rule(filters=[{"type": kind, **fields}])


def modified(**fields: Any) -> dict[str, Any]:
    """Give an HTTPRoute that changes requests' headers."""
    return filtered("RequestHeaderModifier", requestHeaderModifier=fields)


def redirected(**fields: Any) -> dict[str, Any]:
    """Give an HTTPRoute that redirects."""
    return rule(backendRefs=[], filters=[{"type": "RequestRedirect", "requestRedirect": fields}])


def rewritten(**fields: Any) -> dict[str, Any]:
    """Give an HTTPRoute that rewrites."""
    return filtered("URLRewrite", urlRewrite=fields)


def cors(**fields: Any) -> dict[str, Any]:
    """Give an HTTPRoute with a CORS filter."""
    return filtered("CORS", cors={"allowOrigins": ["*"], **fields})


def backend(**fields: Any) -> dict[str, Any]:
    """Give an HTTPRoute with one backend."""
    return rule(backendRefs=[{**BACKEND, **fields}])


def mirrored(**fields: Any) -> dict[str, Any]:
    """Give an HTTPRoute with a mirror."""
    return filtered("RequestMirror", requestMirror={"backendRef": BACKEND, **fields})


def grpc(**fields: Any) -> dict[str, Any]:
    """Give a GRPCRoute of one rule."""
    return with_spec(GRPC_ROUTE, rules=[{"backendRefs": [BACKEND], **fields}])


def grpc_method(**fields: Any) -> dict[str, Any]:
    """Give a GRPCRoute that matches a method."""
    return grpc(matches=[{"method": fields}])


SET_X = {"requestHeaderModifier": {"set": [{"name": "x", "value": "1"}]}}

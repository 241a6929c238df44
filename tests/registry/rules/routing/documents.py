"""Routes for tests, written briefly."""

from typing import Any

from registry.model.gateway import GATEWAY_GROUP
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.parse import from_builtins
from registry.model.service import PortProtocol
from registry.model.tcp_route import TCPRoute

Spec = dict[str, Any]
API = "default/api"
SERVICES = {
    API: {80: PortProtocol.HTTP, 90: PortProtocol.GRPC, 70: PortProtocol.TCP, 71: PortProtocol.AUTO},
    "default/v1": {80: PortProtocol.HTTP, 70: PortProtocol.TCP},
    "default/v2": {80: PortProtocol.HTTP, 70: PortProtocol.TCP},
}
V1, V2 = {"name": "v1", "port": 80}, {"name": "v2", "port": 80}


def _document(kind: str, name: str, spec: Spec) -> Spec:
    namespace, _, bare = f"default/{name}".rpartition("/")
    return {
        "apiVersion": f"{GATEWAY_GROUP}/{'v1alpha2' if kind == 'TCPRoute' else 'v1'}",
        "kind": kind,
        "metadata": {"name": bare, "namespace": namespace.rpartition("/")[2]},
        "spec": {"parentRefs": [{"name": "api", "namespace": "default"}]} | spec,
    }


def http(*rules: Spec, name: str = "route", **spec: Any) -> HTTPRoute:
    """Give an HTTPRoute of ``api``; the name may have a namespace."""
    found = from_builtins(
        _document("HTTPRoute", name, {"rules": list(rules)} | spec), where="test", kinds=(HTTPRoute,)
    )
    assert isinstance(found, HTTPRoute)
    return found


def grpc(*rules: Spec, name: str = "route", **spec: Any) -> GRPCRoute:
    """Give a GRPCRoute of ``api``."""
    found = from_builtins(
        _document("GRPCRoute", name, {"rules": list(rules)} | spec), where="test", kinds=(GRPCRoute,)
    )
    assert isinstance(found, GRPCRoute)
    return found


def tcp(*backends: Spec, name: str = "route", **spec: Any) -> TCPRoute:
    """Give a TCPRoute of ``api``."""
    whole = {"rules": [{"backendRefs": list(backends)}]} | spec
    found = from_builtins(_document("TCPRoute", name, whole), where="test", kinds=(TCPRoute,))
    assert isinstance(found, TCPRoute)
    return found


def path(value: str, kind: str = "PathPrefix", **more: Any) -> Spec:
    """Give a match of a path."""
    return {"path": {"type": kind, "value": value}} | more


def rule(*matches: Spec, to: Spec = V1, **more: Any) -> Spec:
    """Give a rule that leads to ``v1``."""
    return {"matches": list(matches), "backendRefs": [to]} | more

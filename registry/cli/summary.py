"""A resource in one line, for tables. Pure."""

from collections.abc import Mapping
from typing import Any

from registry.cli.traffic_summary import summarise_policy, summarise_route
from registry.errors import InvalidResource
from registry.model.authorization import AuthorizationPolicy
from registry.model.backend_policy import BackendPolicy
from registry.model.external_service import ExternalService, ExternalTlsMode, Resolution
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.mesh import Mesh
from registry.model.parse import OPERATOR_KINDS, from_builtins
from registry.model.peer_authentication import PeerAuthentication
from registry.model.service import Service
from registry.model.tcp_route import TCPRoute


def summarise(document: Mapping[str, Any]) -> str:
    """Say what a resource does; of one that this version cannot read, its kind."""
    try:
        resource = from_builtins(dict(document), where="", kinds=OPERATOR_KINDS)
    except InvalidResource:
        return f"{document.get('kind', 'unknown')} (not known to this meshctl)"
    match resource:
        case Service():
            return _service(resource)
        case ExternalService():
            return _external(resource)
        case AuthorizationPolicy():
            return _policy(resource)
        case PeerAuthentication():
            return _peers(resource)
        case HTTPRoute() | GRPCRoute() | TCPRoute():
            return summarise_route(resource)
        case BackendPolicy():
            return summarise_policy(resource)
        case Mesh(spec=spec):
            return (
                f"trust domain {spec.trust_domain}, default {spec.default_authorization.value}, "
                f"{spec.mtls_mode.value}"
            )
        case _:
            return resource.KIND


def _service(service: Service) -> str:
    ports = ", ".join(
        f"{port.port}{f'→{port.target}' if port.target != port.port else ''}/{port.protocol.value}"
        for port in service.spec.ports
    )
    return f"{ports} → {_labels(service.spec.selector)}"


def _external(external: ExternalService) -> str:
    spec = external.spec
    ports = ", ".join(
        f"{port.number}{f'→{port.target}' if port.target != port.number else ''}/{port.protocol.value}"
        for port in spec.ports
    )
    at = "" if spec.resolution is Resolution.DNS else f" at {', '.join(e.address for e in spec.endpoints)}"
    tls = ", TLS by the proxy" if spec.tls.mode is ExternalTlsMode.SIMPLE else ""
    allowed = "any identity" if spec.allowed_principals is None else ", ".join(spec.allowed_principals)
    return f"{ports} → {', '.join(spec.hosts)}{at}{tls}, for {allowed or 'nobody'}"


def _policy(policy: AuthorizationPolicy) -> str:
    spec = policy.spec
    selected = _labels(spec.selector.match_labels) if spec.selector else ", ".join(sorted(policy.targets))
    count = len(spec.rules)
    rules = f"{count} rule{'' if count == 1 else 's'}" if count else "no rules"
    dry = ", dry run" if policy.dry_run else ""
    return f"{spec.action.value}, {rules}, on {selected or 'every workload'}{dry}"


def _peers(peers: PeerAuthentication) -> str:
    spec = peers.spec
    ports = "".join(f", port {port} {mtls.mode.value}" for port, mtls in sorted(spec.port_level_mtls.items()))
    return f"{spec.mtls.mode.value}{ports}, on {_labels(spec.labels) or 'every workload'}"


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items())

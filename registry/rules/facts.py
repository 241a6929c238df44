"""A request in the terms of the policies: what each of their fields is compared with.

Pure. Whoever has no identity has the empty principal, namespace and account. A node's identity is none: nodes
speak under it for processes that belong to no workload. A caller of another trust domain has its principal
alone, which begins with that domain: namespaces and accounts are of our own mesh, and whoever calls theirs
by the same names must not be let in by them.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from registry.model.identity import WorkloadIdentity
from registry.rules.paths import normalise, readings
from registry.rules.request import AuthRequest


class Facts(NamedTuple):
    """What is compared; "" is absent, `headers` are None when the request's HTTP is not read."""

    principal: str
    namespace: str
    account: str
    port: int
    source_ip: str
    remote_ip: str
    destination_ip: str
    sni: str
    method: str
    host: str
    path: str
    headers: Mapping[str, str] | None


# Where in the Facts a condition looks.
PRINCIPAL: Final = 0
NAMESPACE: Final = 1
ACCOUNT: Final = 2
PORT: Final = 3
SOURCE_IP: Final = 4
REMOTE_IP: Final = 5
DESTINATION_IP: Final = 6
SNI: Final = 7
METHOD: Final = 8
HOST: Final = 9
PATH: Final = 10
HEADERS: Final = 11


def facts_of(request: AuthRequest, *, trust_domain: str) -> Facts:
    """Say what a request is in the terms of the policies of the mesh `trust_domain`."""
    source, http = request.source, request.http
    principal = namespace = account = ""
    if isinstance(source, WorkloadIdentity):
        principal = source.principal
        if source.trust_domain == trust_domain:
            namespace = source.namespace
            account = f"{namespace}/{source.account}"
    source_ip = request.source_ip or ""
    return Facts(
        principal,
        namespace,
        account,
        request.port,
        source_ip,
        request.remote_ip or source_ip,
        request.destination_ip or "",
        request.sni or "",
        http.method if http else "",
        http.host.lower() if http else "",
        normalise(http.path) if http else "",
        http.headers if http else None,
    )


def other_readings(request: AuthRequest, first: Facts) -> Iterator[Facts]:
    """Give what else a workload may take a request for whose path has an escaped slash; mostly nothing."""
    if request.http is not None and "%" in request.http.path:
        for path in readings(request.http.path)[1:]:
            yield first._replace(path=path)

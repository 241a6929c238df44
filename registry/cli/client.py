"""The registry's API as meshctl calls it; the only module here that names httpx and ssl.

Every answer becomes a value of `answers`, every problem document the error it tells of.
"""

import ssl
from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from registry.cli.answers import (
    AdministratorMade,
    AdministratorRemoved,
    Administrators,
    AdministratorView,
    EnrolmentView,
    Items,
    JoinTokenMade,
    NodeRevoked,
    Nodes,
    Problem,
    ProxyStatus,
    ServiceView,
    StoredResource,
)
from registry.cli.authz_answers import CheckView, DiffView, ExplainView, LintView
from registry.cli.ca_answers import AuthorityView, FederatedView, Lifted, Revoked, RotationMoved
from registry.cli.config import Settings
from registry.cli.exits import RegistryUnreachable
from registry.cli.route_answers import RouteExplainView
from registry.errors import (
    ConfigError,
    Conflict,
    Forbidden,
    InvalidResource,
    NotFound,
    RegistryError,
    StoreForbidden,
    StoreUnavailable,
    Unauthenticated,
)
from registry.model.enrolment import TrustBundle
from registry.model.parse import parse_as
from registry.model.resource import Resource
from registry.store.keys import ResourceKey

# Long enough for a registry that waits for etcd to elect a leader, short enough for a person.
TIMEOUT_SECONDS = 15.0

A = TypeVar("A")

_BY_STATUS: dict[int, type[RegistryError]] = {
    kind.status: kind
    for kind in (Unauthenticated, Forbidden, NotFound, Conflict, StoreUnavailable, StoreForbidden)
}


def connect(settings: Settings, *, transport: httpx.BaseTransport | None = None) -> httpx.Client:
    """Give an HTTP client that trusts the registry's CA and shows the token; `transport` may replace the net.

    Raises:
        ConfigError: `ca_pem` holds no certificate, or the server's address holds what no address does.
    """
    try:
        trust = ssl.create_default_context(cadata=settings.ca_pem or None)
    except ssl.SSLError as error:
        raise ConfigError(
            "the CA given holds no PEM certificate; use the registry's root certificate"
        ) from error
    try:
        address = httpx.URL(settings.server)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{settings.server!r} is no address of a registry: {error}") from error
    return httpx.Client(
        base_url=address,
        headers={"Authorization": f"Bearer {settings.token}", "User-Agent": "meshctl"},
        verify=trust,
        transport=transport,
        timeout=TIMEOUT_SECONDS,
        # A proxy from the environment would be asked for 127.0.0.1 and for hosts it cannot know.
        trust_env=False,
    )


class RegistryClient:
    """The admin's calls. `http` brings address, trust and token; its owner closes it.

    Every method raises RegistryUnreachable when no answer comes, and the RegistryError of a problem document.
    """

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def create_token(
        self,
        *,
        node: str,
        identities: tuple[str, ...],
        ttl_seconds: int,
        uses: int,
        require_approval: bool = False,
    ) -> JoinTokenMade:
        """Make a join token for nodes whose name matches the pattern `node`."""
        wanted = {"node": node, "identities": identities, "ttlSeconds": ttl_seconds, "uses": uses}
        if require_approval:
            # Not sent otherwise: an older registry does not know it.
            wanted["requireApproval"] = True
        return self._ask("POST", "/v1/tokens", JoinTokenMade, body=wanted)

    def whoami(self) -> AdministratorView:
        """Ask whose token this is."""
        return self._ask("GET", "/v1/whoami", AdministratorView)

    def create_administrator(self, name: str, *, role: str) -> AdministratorMade:
        """Make an administrator."""
        return self._ask("POST", "/v1/administrators", AdministratorMade, body={"name": name, "role": role})

    def list_administrators(self) -> Administrators:
        """Read every administrator."""
        return self._ask("GET", "/v1/administrators", Administrators)

    def remove_administrator(self, name: str) -> AdministratorRemoved:
        """Remove an administrator."""
        return self._ask("DELETE", f"/v1/administrators/{quote(name, safe='')}", AdministratorRemoved)

    def authority(self) -> AuthorityView:
        """Read the certificate authority's state."""
        return self._ask("GET", "/v1/ca", AuthorityView)

    def trust_bundle(self) -> TrustBundle:
        """Read the trust bundle as nodes do."""
        response = self._send("GET", "/v1/ca/bundle")
        return parse_as(TrustBundle, response.content, where=f"{self._server}/v1/ca/bundle")

    def start_rotation(self, *, root: bool) -> RotationMoved:
        """Start changing the intermediate, or the root with it."""
        return self._ask("POST", "/v1/ca/rotation", RotationMoved, body={"root": root})

    def continue_rotation(self, *, force: bool) -> RotationMoved:
        """Take a rotation's next step."""
        return self._ask("POST", "/v1/ca/rotation/continue", RotationMoved, body={"force": force})

    def abort_rotation(self) -> RotationMoved:
        """Give a rotation up."""
        return self._ask("DELETE", "/v1/ca/rotation", RotationMoved)

    def revoke(self, kind: str, value: str, *, reason: str) -> Revoked:
        """Revoke a node's or an identity's certificates, or a serial."""
        wanted = {"kind": kind, "value": value, "reason": reason}
        return self._ask("POST", "/v1/ca/revocations", Revoked, body=wanted)

    def unrevoke(self, kind: str, value: str) -> Lifted:
        """Lift a revocation."""
        return self._ask("POST", "/v1/ca/revocations/lift", Lifted, body={"kind": kind, "value": value})

    def federate(self, trust_domain: str, roots: str) -> FederatedView:
        """Recognise another mesh's identities by its roots (PEM)."""
        wanted = {"trustDomain": trust_domain, "roots": roots}
        return self._ask("POST", "/v1/ca/federated", FederatedView, body=wanted)

    def unfederate(self, trust_domain: str) -> None:
        """Recognise another mesh's identities no more."""
        self._send("DELETE", f"/v1/ca/federated/{quote(trust_domain)}")

    def list_nodes(self) -> Nodes:
        """Read every enrolled node."""
        return self._ask("GET", "/v1/nodes", Nodes)

    def approve_node(self, node: str) -> EnrolmentView:
        """Enrol a node that waits for it."""
        return self._ask("POST", f"/v1/nodes/{quote(node, safe='')}/approve", EnrolmentView)

    def allow_node(self, node: str, identities: tuple[str, ...]) -> EnrolmentView:
        """Let a node hold more identities."""
        path = f"/v1/nodes/{quote(node, safe='')}/allow"
        return self._ask("POST", path, EnrolmentView, body={"identities": identities})

    def forbid_node(self, node: str, identities: tuple[str, ...]) -> EnrolmentView:
        """Let a node no longer hold identities."""
        path = f"/v1/nodes/{quote(node, safe='')}/forbid"
        return self._ask("POST", path, EnrolmentView, body={"identities": identities})

    def revoke_node(self, node: str, *, reason: str) -> NodeRevoked:
        """End a node's enrolment and revoke its certificates."""
        path = f"/v1/nodes/{quote(node, safe='')}/revoke"
        return self._ask("POST", path, NodeRevoked, body={"reason": reason})

    def proxy_status(self) -> ProxyStatus:
        """Read what each node's proxy has applied and refused."""
        return self._ask("GET", "/v1/proxy/status", ProxyStatus)

    def list_services(self, namespace: str | None) -> tuple[ServiceView, ...]:
        """Read the services of one namespace, or of all (None)."""
        return self._ask("GET", "/v1/services", Items[ServiceView], namespace=namespace).items

    def get_service(self, namespace: str, name: str) -> ServiceView:
        """Read one service with its endpoints."""
        return self._ask("GET", f"/v1/services/{quote(namespace)}/{quote(name)}", ServiceView)

    def list_resources(self, plural: str, namespace: str | None) -> tuple[StoredResource, ...]:
        """Read the resources of a kind in one namespace, or in all (None), also those that do not parse."""
        path = f"/v1/resources/{quote(plural)}"
        return self._ask("GET", path, Items[StoredResource], namespace=namespace).items

    def get_resource(self, key: ResourceKey) -> StoredResource:
        """Read one resource."""
        return self._ask("GET", _path(key), StoredResource)

    def put_resource(self, key: ResourceKey, resource: Resource, *, expected: int | None) -> StoredResource:
        """Write a resource if its revision is still `expected`: 0 means absent, None whatever there is."""
        match expected:
            case None:
                headers = {}
            case 0:
                headers = {"If-None-Match": "*"}
            case _:
                headers = {"If-Match": f'"{expected}"'}
        return self._ask("PUT", _path(key), StoredResource, body=resource, headers=headers)

    def delete_resource(self, key: ResourceKey) -> None:
        """Remove a resource."""
        self._send("DELETE", _path(key))

    def authz_check(self, asked: Mapping[str, object]) -> CheckView:
        """Ask whether a call is allowed."""
        return self._ask("POST", "/v1/authz/check", CheckView, body=asked)

    def authz_explain(self, decision: str) -> ExplainView:
        """Read a recorded decision."""
        return self._ask("GET", f"/v1/authz/explain/{quote(decision, safe='')}", ExplainView)

    def authz_diff(self, candidates: Sequence[object]) -> DiffView:
        """Ask what would change for the recorded calls."""
        return self._ask("POST", "/v1/authz/diff", DiffView, body={"candidates": candidates})

    def authz_lint(self, candidates: Sequence[object]) -> LintView:
        """Ask what is most likely not meant in the policies."""
        return self._ask("POST", "/v1/authz/lint", LintView, body={"candidates": candidates})

    def route_explain(self, asked: Mapping[str, object]) -> RouteExplainView:
        """Ask where a request goes."""
        return self._ask("POST", "/v1/routes/explain", RouteExplainView, body=asked)

    def _ask(
        self,
        method: str,
        path: str,
        answer: type[A],
        *,
        body: object = None,
        namespace: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> A:
        response = self._send(method, path, body=body, namespace=namespace, headers=headers)
        try:
            return msgspec.json.decode(response.content, type=answer)
        except msgspec.DecodeError as error:
            raise self._strange(response, str(error)) from error

    def _send(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        namespace: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        content = None if body is None else msgspec.json.encode(body)
        kind = {} if content is None else {"Content-Type": "application/json"}
        params = {} if namespace is None else {"namespace": namespace}
        try:
            response = self._http.request(
                method, path, content=content, params=params, headers={**kind, **(headers or {})}
            )
        except httpx.TimeoutException as error:
            raise RegistryUnreachable(
                f"{self._server} did not answer within {TIMEOUT_SECONDS:.0f} s",
                mend="look at the registry's log; it may be waiting for etcd",
            ) from error
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except httpx.DecodingError as error:
            raise RegistryUnreachable(
                f"{self._server} sent an answer that cannot be decoded: {error}"
            ) from error
        if not response.is_success:
            self._raise_problem(response)
        return response

    @property
    def _server(self) -> str:
        return str(self._http.base_url).rstrip("/")

    def _unreachable(self, error: httpx.TransportError) -> RegistryUnreachable:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return RegistryUnreachable(
                f"{self._server} shows a certificate that the configured CA does not vouch for: {error}",
                mend="use the ca_pem of the meshctl.toml that this registry's init wrote, and a name its "
                "certificate carries (nodemesh-registry --name adds one)",
            )
        return RegistryUnreachable(
            f"{self._server} cannot be reached: {error}",
            mend="is nodemesh-registry running there? --server or $MESHCTL_SERVER names another address",
        )

    def _strange(self, response: httpx.Response, reason: str) -> RegistryUnreachable:
        return RegistryUnreachable(
            f"{response.request.method} {response.request.url} gave {response.status_code} "
            f"and something a registry does not say: {reason}",
            mend="is this the registry's address (port 15010), and of this meshctl's version?",
        )

    def _raise_problem(self, response: httpx.Response) -> NoReturn:
        try:
            problem = msgspec.json.decode(response.content, type=Problem)
        except msgspec.DecodeError as error:
            raise self._strange(response, "no problem document") from error
        if problem.reason:
            raise InvalidResource(
                where=problem.where, path=problem.path, reason=problem.reason, mend=problem.mend
            )
        text = problem.detail or problem.title
        kind = _BY_STATUS.get(response.status_code)
        if kind is not None:
            raise kind(text)
        if response.status_code in {400, 413, 422}:
            raise InvalidResource(where="the request", path="", reason=text)
        raise RegistryUnreachable(
            f"the registry failed with {response.status_code}: {text}", mend="look at the registry's log"
        )


def _path(key: ResourceKey) -> str:
    return f"/v1/resources/{quote(key.plural)}/{quote(key.namespace)}/{quote(key.name)}"

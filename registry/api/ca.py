"""The certificate authority's part of the API: the bundle, joining, certificates. No administrator needed."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from registry.api.auth import bearer_token
from registry.api.bodies import MAX_PUBLIC_BODY, Answer, Asked, answer, decode, read_body
from registry.ca.authority import read_bundle
from registry.ca.enrolment import Registrar
from registry.clock import format_time
from registry.model.parse import render
from registry.store.base import Store


class JoinAsked(Asked, frozen=True, kw_only=True):
    """A node that wants to enrol: its whole join token, its name, a certificate request in PEM."""

    token: str
    node: str
    csr: str


class JoinAnswer(Answer, frozen=True, kw_only=True):
    """The node's certificate, and the identities it may ask for from now on."""

    node: str
    identity: str
    certificate: str
    identities: tuple[str, ...]
    bundle: tuple[str, ...]
    trust_domain: str
    not_after: str


class CertificateAsked(Asked, frozen=True, kw_only=True):
    """A node that wants a certificate; the proof of possession is in the Authorization header."""

    identity: str
    csr: str


class CertificateAnswer(Answer, frozen=True, kw_only=True):
    """A certificate chain in PEM, leaf first, and the roots trusted now."""

    identity: str
    certificate: str
    bundle: tuple[str, ...]
    not_after: str


class AuthorityHandlers:
    """``/v1/ca/bundle``, ``/v1/join`` and ``/v1/certificates``."""

    def __init__(self, *, store: Store, registrar: Registrar) -> None:
        self._store = store
        self._registrar = registrar

    def routes(self) -> list[Route]:
        """Give this group's routes."""
        return [
            Route("/v1/ca/bundle", self.bundle),
            Route("/v1/join", self.join, methods=["POST"]),
            Route("/v1/certificates", self.certify, methods=["POST"]),
        ]

    async def bundle(self, _request: Request) -> Response:
        """Give the trusted roots; a joiner believes them by the fingerprint in its token."""
        return Response(render(await read_bundle(self._store)), media_type="application/json")

    async def join(self, request: Request) -> Response:
        """Enrol a node."""
        asked = decode(await read_body(request, limit=MAX_PUBLIC_BODY), JoinAsked)
        joined = await self._registrar.join(token=asked.token, node=asked.node, csr=asked.csr)
        return answer(
            JoinAnswer(
                node=joined.identity.name,
                identity=str(joined.identity),
                certificate=joined.issued.chain_pem,
                identities=joined.identities,
                bundle=joined.trust.roots_pem,
                trust_domain=joined.trust.trust_domain,
                not_after=format_time(joined.issued.not_after),
            )
        )

    async def certify(self, request: Request) -> Response:
        """Certify an identity for an enrolled node."""
        proof = bearer_token(request)
        body = await read_body(request, limit=MAX_PUBLIC_BODY)
        asked = decode(body, CertificateAsked)
        certified = await self._registrar.certify(
            proof=proof, body=body, identity=asked.identity, csr=asked.csr
        )
        return answer(
            CertificateAnswer(
                identity=certified.identity,
                certificate=certified.issued.chain_pem,
                bundle=certified.trust.roots_pem,
                not_after=format_time(certified.issued.not_after),
            )
        )

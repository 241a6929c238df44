"""The certificate authority's part of the API: the bundle, joining, certificates. No administrator needed."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from registry.api.auth import bearer_token
from registry.api.bodies import MAX_PUBLIC_BODY, Answer, Asked, answer, decode, read_body
from registry.ca.bundle import read_bundle
from registry.ca.certifying import Certifier
from registry.ca.enrolment import Registrar, Requests, Waiting
from registry.clock import format_time
from registry.model.parse import render
from registry.store.base import Store


class JoinAsked(Asked, frozen=True, kw_only=True):
    """A node that wants to enrol: its whole join token, its name, certificate requests in PEM."""

    token: str
    node: str
    csr: str
    etcd_csr: str = ""


class JoinAnswer(Answer, frozen=True, kw_only=True):
    """The node's certificate, and the identities it may ask for from now on.

    `generation` is that of the trust bundle. `etcd_certificate` is for etcd alone, null if no request for it
    was sent.
    """

    node: str
    identity: str
    certificate: str
    identities: tuple[str, ...]
    bundle: tuple[str, ...]
    trust_domain: str
    generation: int
    not_after: str
    etcd_certificate: str | None


class WaitingAnswer(Answer, frozen=True, kw_only=True):
    """The node's enrolment waits for approval (status 202): it is to send the same request again."""

    node: str


class EtcdCertificateAsked(Asked, frozen=True, kw_only=True):
    """A node that wants its etcd client certificate; the proof is in the Authorization header."""

    csr: str


class EtcdCertificateAnswer(Answer, frozen=True, kw_only=True):
    """A node's etcd client certificate chain in PEM, leaf first, and the user it is for."""

    user: str
    certificate: str
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
    """``/v1/ca/bundle``, ``/v1/join``, ``/v1/certificates`` and ``/v1/etcd-certificates``."""

    def __init__(self, *, store: Store, registrar: Registrar, certifier: Certifier) -> None:
        self._store = store
        self._registrar = registrar
        self._certifier = certifier

    def routes(self) -> list[Route]:
        """Give this group's routes."""
        return [
            Route("/v1/ca/bundle", self.bundle),
            Route("/v1/join", self.join, methods=["POST"]),
            Route("/v1/certificates", self.certify, methods=["POST"]),
            Route("/v1/etcd-certificates", self.certify_etcd, methods=["POST"]),
        ]

    async def bundle(self, _request: Request) -> Response:
        """Give the trusted roots; a joiner believes them by the fingerprint in its token."""
        return Response(render(await read_bundle(self._store)), media_type="application/json")

    async def join(self, request: Request) -> Response:
        """Enrol a node."""
        asked = decode(await read_body(request, limit=MAX_PUBLIC_BODY), JoinAsked)
        joined = await self._registrar.join(
            token=asked.token, node=asked.node, requests=Requests(asked.csr, asked.etcd_csr)
        )
        if isinstance(joined, Waiting):
            waiting = answer(WaitingAnswer(node=joined.node))
            waiting.status_code = HTTPStatus.ACCEPTED
            return waiting
        return answer(
            JoinAnswer(
                node=joined.identity.name,
                identity=str(joined.identity),
                certificate=joined.issued.chain_pem,
                identities=joined.identities,
                bundle=joined.trust.roots_pem,
                trust_domain=joined.trust.trust_domain,
                generation=joined.trust.spec.generation,
                not_after=format_time(joined.issued.not_after),
                etcd_certificate=joined.etcd.chain_pem if joined.etcd else None,
            )
        )

    async def certify(self, request: Request) -> Response:
        """Certify an identity for an enrolled node."""
        proof = bearer_token(request)
        body = await read_body(request, limit=MAX_PUBLIC_BODY)
        asked = decode(body, CertificateAsked)
        certified = await self._certifier.certify(
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

    async def certify_etcd(self, request: Request) -> Response:
        """Certify an enrolled node's etcd user."""
        proof = bearer_token(request)
        body = await read_body(request, limit=MAX_PUBLIC_BODY)
        asked = decode(body, EtcdCertificateAsked)
        certified = await self._certifier.certify_etcd(proof=proof, body=body, csr=asked.csr)
        return answer(
            EtcdCertificateAnswer(
                user=certified.user,
                certificate=certified.issued.chain_pem,
                not_after=format_time(certified.issued.not_after),
            )
        )

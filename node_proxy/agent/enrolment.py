"""Speaks to the registry: joining with a one-time token, and certificates by proof of possession.

The only module of the agent that makes HTTP requests to the registry.
"""

import base64
import hashlib
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Self, TypeVar

import httpx
import jwt
import msgspec
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from node_proxy.agent.credentials import Enrolment, Held, hold, new_key, signing_request
from node_proxy.agent.etcd_certificate import EtcdCredential, hold_for_etcd
from node_proxy.errors import EnrolmentError
from registry.errors import InvalidResource
from registry.model.enrolment import TrustBundle
from registry.model.identity import Identity, NodeIdentity
from registry.model.parse import parse_as

AUDIENCE = "nodemesh-registry"
# The registry accepts up to 300 s; a minute is enough for a slow link and a waiting registry.
PROOF_LIFE = timedelta(seconds=60)
# Every answer is a few certificates; more is not from a registry.
MAX_ANSWER = 1 << 20
TIMEOUT = httpx.Timeout(10)
# An administrator needs minutes; so often a node that waits for approval asks, in seconds.
APPROVAL_POLL = 3.0

A = TypeVar("A")


class _JoinAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """Only `node` is there while the enrolment waits for approval."""

    node: str
    identity: str = ""
    certificate: str = ""
    bundle: tuple[str, ...] = ()
    trust_domain: str = ""
    # 0 from a registry whose bundles have none.
    generation: int = 0
    etcd_certificate: str | None = None


class _EtcdAnswer(msgspec.Struct, frozen=True, rename="camel"):
    certificate: str


class _CertificateAnswer(msgspec.Struct, frozen=True, rename="camel"):
    identity: str
    certificate: str
    bundle: tuple[str, ...]


class _Problem(msgspec.Struct, frozen=True):
    title: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A one-time token's text; `fingerprint` is the SHA-256 of the mesh's root certificate, in hex."""

    text: str
    fingerprint: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``nm1.<id>.<secret>.<fingerprint>``.

        Raises:
            EnrolmentError: it is not complete.
        """
        text = text.strip()
        match = re.match(r"nm1\.[^.\s]+\.[^.\s]+\.([0-9a-f]{64})\Z", text)
        if not match:
            raise EnrolmentError(
                "this is no join token; copy the whole of what "
                "`meshctl node token create` printed, it begins with nm1."
            )
        return cls(text, match[1])


@dataclass(frozen=True, slots=True)
class Issued:
    """A new certificate, and the roots the mesh trusts now."""

    held: Held
    roots: tuple[str, ...]


class Joined(NamedTuple):
    """What joining gave; `etcd` is None from a registry that gives out none."""

    enrolment: Enrolment
    held: Held
    etcd: EtcdCredential | None


class RegistryAway(EnrolmentError):
    """The registry cannot be reached; it may be later."""


async def join(
    *, registry: str, token: str, node: str, on_waiting: Callable[[], None] = lambda: None
) -> Joined:
    """Trade a join token for the node's certificate.

    The registry is believed only after its root matched the fingerprint in the token. If an administrator
    must approve the node, `on_waiting` is called once, and the registry asked again until that is done.

    Raises:
        EnrolmentError: says what the registry refused, or how it could not be reached.
    """
    parsed = JoinToken.parse(token)
    root = await _pinned_root(registry, parsed.fingerprint)
    key, etcd_key = new_key(), new_key()
    body = msgspec.json.encode(
        {
            "token": parsed.text,
            "node": node,
            "csr": signing_request(key, node),
            "etcdCsr": signing_request(etcd_key, node),
        }
    )
    answer = await _ask_to_join(registry, root, body)
    if not answer.certificate:
        on_waiting()
        answer = await _wait_approved(registry, root, body)
    held = hold(answer.certificate, key)
    if held.identity != NodeIdentity(answer.trust_domain, node):
        raise EnrolmentError(f"the registry issued {held.identity} where this node is {node}")
    enrolment = Enrolment(
        node=node,
        identity=str(held.identity),
        trust_domain=answer.trust_domain,
        roots=answer.bundle,
        # Of that bundle only the roots are here: it is still to be taken, and none that is older.
        generation=max(0, answer.generation - 1),
    )
    etcd = hold_for_etcd(answer.etcd_certificate, etcd_key) if answer.etcd_certificate else None
    return Joined(enrolment, held, etcd)


async def _ask_to_join(registry: str, root: str, body: bytes) -> _JoinAnswer:
    async with _connected(registry, _trusting((root,))) as client:
        return await _ask(client, "POST", "/v1/join", _JoinAnswer, body=body)


async def _wait_approved(registry: str, root: str, body: bytes) -> _JoinAnswer:
    while True:
        await trio.sleep(APPROVAL_POLL)
        try:
            answer = await _ask_to_join(registry, root, body)
        except RegistryAway:
            # Giving up would lose the key that waits, and with it the token.
            continue
        if answer.certificate:
            return answer


async def request_etcd_certificate(
    *, registry: str, roots: tuple[str, ...], node: Held, now: datetime
) -> EtcdCredential:
    """Get the node's etcd client certificate, proving with the node's key that we are the node.

    Raises:
        EnrolmentError: says what the registry refused, or how it could not be reached.
    """
    key = new_key()
    body = msgspec.json.encode({"csr": signing_request(key, "etcd")})
    proof = proof_of_possession(node, body=body, now=now)
    async with _connected(registry, _trusting(roots)) as client:
        answer = await _ask(client, "POST", "/v1/etcd-certificates", _EtcdAnswer, body=body, bearer=proof)
    return hold_for_etcd(answer.certificate, key)


async def request_certificate(
    *, registry: str, roots: tuple[str, ...], node: Held, identity: Identity, now: datetime
) -> Issued:
    """Get a certificate for `identity`, proving with the node's key that we are the node.

    Raises:
        EnrolmentError: says what the registry refused, or how it could not be reached.
    """
    key = new_key()
    request = {"identity": str(identity), "csr": signing_request(key, str(identity).rpartition("/")[2])}
    body = msgspec.json.encode(request)
    proof = proof_of_possession(node, body=body, now=now)
    async with _connected(registry, _trusting(roots)) as client:
        answer = await _ask(client, "POST", "/v1/certificates", _CertificateAnswer, body=body, bearer=proof)
    held = hold(answer.certificate, key)
    if held.identity != identity:
        raise EnrolmentError(f"the registry issued {held.identity} where {identity} was asked for")
    return Issued(held, answer.bundle)


def proof_of_possession(node: Held, *, body: bytes, now: datetime) -> str:
    """Sign a short-lived JWT over the request's body with the node's key, the chain in its header."""
    chain = x509.load_pem_x509_certificates(node.chain_pem.encode())
    der = [base64.b64encode(each.public_bytes(serialization.Encoding.DER)).decode() for each in chain]
    claims = {
        "iss": str(node.identity),
        "sub": str(node.identity),
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + PROOF_LIFE,
        "jti": secrets.token_urlsafe(16),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return jwt.encode(claims, node.key_pem, algorithm="ES256", headers={"x5c": der})


async def _pinned_root(registry: str, fingerprint: str) -> str:
    """Fetch the bundle over unverified TLS and give the one root the token vouches for."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    async with _connected(registry, unverified) as client:
        raw = await _exchange(client, "GET", "/v1/ca/bundle")
    try:
        bundle = parse_as(TrustBundle, raw, where=f"{registry}/v1/ca/bundle")
        for pem in bundle.spec.roots_pem:
            der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(serialization.Encoding.DER)
            if hashlib.sha256(der).hexdigest() == fingerprint:
                return pem
    except (InvalidResource, ValueError) as error:
        raise EnrolmentError(f"{registry} does not answer like a registry: {error}") from error
    raise EnrolmentError(
        f"{registry} is not the registry this token came from: its root has another fingerprint; "
        "check the URL, or that nobody is in between"
    )


def _trusting(roots: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata="".join(roots))
    except ssl.SSLError as error:
        raise EnrolmentError("the stored root certificates are damaged; join again") from error
    return context


@asynccontextmanager
async def _connected(registry: str, context: ssl.SSLContext) -> AsyncIterator[httpx.AsyncClient]:
    # trust_env: a proxy in the environment is meant for people's downloads, not for the mesh.
    async with httpx.AsyncClient(
        base_url=registry, verify=context, timeout=TIMEOUT, trust_env=False
    ) as client:
        yield client


async def _ask(
    client: httpx.AsyncClient, method: str, path: str, kind: type[A], *, body: bytes = b"", bearer: str = ""
) -> A:
    raw = await _exchange(client, method, path, body=body, bearer=bearer)
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.MsgspecError as error:
        raise EnrolmentError(f"{client.base_url} does not answer like a registry: {error}") from error


async def _exchange(
    client: httpx.AsyncClient, method: str, path: str, *, body: bytes = b"", bearer: str = ""
) -> bytes:
    headers = {"content-type": "application/json"} if body else {}
    if bearer:
        headers["authorization"] = f"Bearer {bearer}"
    raw = bytearray()
    try:
        async with client.stream(method, path, content=body or None, headers=headers) as response:
            async for chunk in response.aiter_bytes():
                raw += chunk
                if len(raw) > MAX_ANSWER:
                    raise EnrolmentError(f"{client.base_url} answers with more than {MAX_ANSWER} bytes")
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
        raise RegistryAway(
            f"cannot reach the registry at {client.base_url}: {error or type(error).__name__}; "
            "check the URL, the firewall, and that nodemesh-registry runs"
        ) from error
    if response.status_code >= 400:
        raise EnrolmentError(_refusal(path, response.status_code, bytes(raw)))
    return bytes(raw)


def _refusal(path: str, status: int, raw: bytes) -> str:
    """Put a refusal into words that say what to do."""
    try:
        problem = msgspec.json.decode(raw, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem()
    said = problem.detail or problem.title or f"status {status}"
    joining = path == "/v1/join"
    match status:
        case 401 if joining:
            mend = "the token is unknown, spent or past its time: `meshctl node token create` makes a new one"
        case 403 if joining:
            mend = "make a token whose --node pattern matches this node's name"
        case 401:
            mend = (
                "if this node's certificate has expired or its clock is wrong, mend the clock or join again"
            )
        case 403:
            mend = (
                "the node's enrolment must list the identity: join again with a token made by "
                "`meshctl node token create --node NODE --identity NAMESPACE/ACCOUNT`"
            )
        case _ if status >= 500:
            return f"the registry cannot answer now: {said}"
        case _:
            mend = "see the registry's log"
    return f"the registry refused: {said}; {mend}"

"""A proof of possession holds for one node, one key, one body, a few minutes, and once."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from registry.ca import issuer
from registry.ca.proof import Proof, Replays, verify_proof
from registry.errors import Unauthenticated
from registry.model.identity import Identity, NodeIdentity, WorkloadIdentity
from registry.model.revocation import BACKDATE, CertificateFacts
from tests.registry.ca.material import START, TRUST_DOMAIN, make_proof, new_key, unsigned

NODE = NodeIdentity(TRUST_DOMAIN, "web-1")
BODY = b'{"identity":"spiffe://mesh.test/ns/default/sa/web"}'
ROOT = issuer.make_root(new_key(), trust_domain=TRUST_DOMAIN, serial=1, now=START)
KEY = new_key()


def certify(
    identity: Identity = NODE, *, root: issuer.Signer = ROOT, key: ec.EllipticCurvePrivateKey = KEY
) -> str:
    leaf = issuer.issue_leaf(root, key.public_key(), identity, node="web-1", serial=2, now=START)
    return issuer.to_pem(leaf)


CHAIN = certify()


def prove(
    chain: str = CHAIN, *, key: ec.EllipticCurvePrivateKey = KEY, identity: str = str(NODE), **changes: Any
) -> str:
    return make_proof(key, chain, identity=identity, body=BODY, now=START, **changes)


def verify(token: str, *, body: bytes = BODY, later: timedelta = timedelta(0)) -> Proof:
    return verify_proof(
        token, body=body, roots=[ROOT.certificate], trust_domain=TRUST_DOMAIN, now=START + later
    )


def test_good() -> None:
    """A proof tells which node, with a certificate of when."""
    proof = verify(prove())
    assert proof.node == NODE
    assert proof.certified_at == START


def test_chain_with_intermediate() -> None:
    """A chain that comes with its root is as good as one without."""
    assert verify(prove(CHAIN + issuer.to_pem(ROOT.certificate))).node == NODE


def test_other_body() -> None:
    """A proof is good for the body it was made for alone."""
    with pytest.raises(Unauthenticated, match="another request body"):
        verify(prove(), body=BODY + b" ")


def test_other_root() -> None:
    """A certificate of another root of the same name proves nothing."""
    other = issuer.make_root(new_key(), trust_domain=TRUST_DOMAIN, serial=1, now=START)
    with pytest.raises(Unauthenticated, match="not of this mesh"):
        verify(prove(certify(root=other)))


def test_other_key() -> None:
    """Somebody else's certificate is of no use without its key."""
    with pytest.raises(Unauthenticated, match="signature"):
        verify(prove(key=new_key()))


def test_workload_key() -> None:
    """A workload's certificate does not speak for the node."""
    web = WorkloadIdentity(TRUST_DOMAIN, "default", "web")
    with pytest.raises(Unauthenticated, match="not a node's identity"):
        verify(prove(certify(web), identity=str(web)))


@pytest.mark.parametrize("claim", ["iss", "sub"])
def test_other_name(claim: str) -> None:
    """A proof names the node of its certificate, in both places."""
    changes: dict[str, Any] = {claim: "spiffe://mesh.test/node/web-2"}
    with pytest.raises(Unauthenticated, match="names"):
        verify(prove(**changes))


def test_other_audience() -> None:
    """A token made for somebody else is not taken."""
    with pytest.raises(Unauthenticated, match="is meant for"):
        verify(prove(aud="etcd"))


@pytest.mark.parametrize("claim", ["iss", "sub", "aud", "iat", "exp", "jti", "sha256"])
def test_missing_claim(claim: str) -> None:
    """Every claim is required."""
    changes: dict[str, Any] = {claim: None}
    with pytest.raises(Unauthenticated, match="claims"):
        verify(prove(**changes))


@pytest.mark.parametrize(
    ("later", "good"),
    [
        (timedelta(minutes=5, seconds=59), True),
        (timedelta(minutes=6, seconds=1), False),
        (timedelta(minutes=-4), True),
        (timedelta(minutes=-5), True),
    ],
)
def test_clock_skew(later: timedelta, good: bool) -> None:
    """Clocks may differ by five minutes; a proof older than that has expired."""
    if good:
        verify(prove(), later=later)
    else:
        with pytest.raises(Unauthenticated, match="expired"):
            verify(prove(), later=later)


@pytest.mark.parametrize("ahead", [timedelta(minutes=4), timedelta(minutes=-4)], ids=["fast", "slow"])
def test_four_minutes_off(ahead: timedelta) -> None:
    """A node whose clock is four minutes off proves itself, also with a certificate issued this moment."""
    token = make_proof(KEY, CHAIN, identity=str(NODE), body=BODY, now=START + ahead)
    assert verify(token).node == NODE


def test_expired_by_an_hour() -> None:
    """A certificate that ended an hour ago is refused with when, by which clock, and what to do."""
    now = START + timedelta(hours=25)
    token = make_proof(KEY, CHAIN, identity=str(NODE), body=BODY, now=now)
    says = "expired at 2026-03-02T12:00:00Z, it is 2026-03-02T13:00:00Z here; join again with a token"
    with pytest.raises(Unauthenticated, match=says):
        verify(token, later=timedelta(hours=25))


def test_leaf_of_an_intermediate() -> None:
    """A node's chain goes over the intermediate, and what revocations look at is taken from all of it."""
    middle = issuer.make_intermediate(ROOT, new_key(), trust_domain=TRUST_DOMAIN, serial=3, now=START)
    chain = certify(root=middle) + issuer.to_pem(middle.certificate)
    assert verify(prove(chain)).facts == CertificateFacts(
        identity=str(NODE), node="web-1", serials=(2, 3), not_before=START - BACKDATE
    )


def test_from_the_future() -> None:
    """A proof from more than five minutes ahead is refused."""
    ahead = int((START + timedelta(minutes=6)).timestamp())
    with pytest.raises(Unauthenticated, match="future"):
        verify(prove(iat=ahead, exp=ahead + 60))


@pytest.mark.parametrize("lifetime", [301, 0, -60, 2**62])
def test_lifetime(lifetime: int) -> None:
    """A proof lasts at most five minutes, and at least one second."""
    start = int(START.timestamp())
    with pytest.raises(Unauthenticated):
        verify(prove(iat=start, exp=start + lifetime))


def test_no_signature() -> None:
    """A token that declares itself unsigned is refused."""
    with pytest.raises(Unauthenticated, match="ES256 is expected"):
        verify(unsigned(prove()))


def test_symmetric_signature() -> None:
    """The public key does not become a shared secret by a changed algorithm."""
    public = KEY.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    header = jwt.get_unverified_header(prove())
    with pytest.raises(Unauthenticated, match="ES256 is expected"):
        verify(jwt.encode({"iss": str(NODE)}, public, algorithm="HS256", headers={"x5c": header["x5c"]}))


@pytest.mark.parametrize(
    "x5c",
    [[], "AAAA", ["!"], ["AAAA"], [1], None, ["AAAA"] * 10],
    ids=["empty", "text", "base64", "der", "number", "null", "long"],
)
def test_bad_chain(x5c: object) -> None:
    """A header without a readable chain is the caller's fault."""
    with pytest.raises(Unauthenticated, match="header"):
        verify(prove(headers={"x5c": x5c}))


@given(st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", fullmatch=True)))
def test_anything_else(token: str) -> None:
    """Whatever else is sent is refused, never an error of another kind."""
    with pytest.raises(Unauthenticated):
        verify(token)


@pytest.mark.parametrize("payload", [b"[]", b"{", b'{"iss": "\xff"}'])
def test_payload_without_claims(payload: bytes) -> None:
    """A signed payload that holds no claims is refused."""
    header = {"x5c": jwt.get_unverified_header(prove())["x5c"]}
    token = jwt.PyJWS().encode(payload, KEY, algorithm="ES256", headers=header)
    with pytest.raises(Unauthenticated, match="claims"):
        verify(token)


class TestReplays:
    PROOF = Proof(
        node=NODE,
        facts=CertificateFacts(identity=str(NODE), node="web-1", serials=(1,), not_before=START),
        jti="a" * 32,
        expires=START + timedelta(minutes=6),
    )

    def test_once(self) -> None:
        """The second use of a proof is refused."""
        replays = Replays()
        replays.admit(self.PROOF, now=START)
        with pytest.raises(Unauthenticated, match="used before"):
            replays.admit(self.PROOF, now=START + timedelta(minutes=5))

    def test_per_node(self) -> None:
        """One node cannot use up another's numbers."""
        replays = Replays()
        replays.admit(self.PROOF, now=START)
        replays.admit(replace(self.PROOF, node=NodeIdentity(TRUST_DOMAIN, "web-2")), now=START)

    def test_forgets_what_has_expired(self) -> None:
        """What can no longer be replayed takes no room."""
        replays = Replays(limit=10)
        for number in range(10):
            replays.admit(replace(self.PROOF, jti=f"proof-{number}"), now=START)
        later = replace(self.PROOF, jti="later", expires=START + timedelta(minutes=13))
        replays.admit(later, now=START + timedelta(minutes=7))
        assert len(replays._seen) == 1

    def test_bounded(self) -> None:
        """A flood of proofs takes bounded memory: the oldest are forgotten, the newest are not."""
        replays = Replays(limit=10)
        for number in range(100):
            replays.admit(replace(self.PROOF, jti=f"proof-{number}"), now=START)
        assert len(replays._seen) == 10
        with pytest.raises(Unauthenticated):
            replays.admit(replace(self.PROOF, jti="proof-99"), now=START)

import hashlib
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import msgspec
import pytest
import trio
from cryptography import x509

from node_proxy.agent.certificates import Certificates
from node_proxy.agent.credentials import Held, Keyring
from node_proxy.agent.enrolment import JoinToken, join, proof_of_possession, request_certificate
from node_proxy.agent.trust import acceptable
from node_proxy.errors import ConfigError, EnrolmentError
from registry.ca.bundle import read_bundle
from registry.errors import InvalidResource
from registry.model.identity import NodeIdentity, WorkloadIdentity
from tests.node_proxy.agent.documents import TRUST_DOMAIN, seeded
from tests.node_proxy.agent.material import NOON, make_authority
from tests.node_proxy.agent.real_registry import RealRegistry

NODE = NodeIdentity(TRUST_DOMAIN, "web-1")
WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")
API = WorkloadIdentity(TRUST_DOMAIN, "default", "api")


def now() -> datetime:
    """Give the wall clock, as the registry under test has it."""
    return datetime.now(UTC)


async def test_join_and_certify(registry: RealRegistry) -> None:
    """A token buys the node's certificate; with that the node gets its workload's."""
    enrolment, node, _ = await join(registry=registry.url, token=await registry.token(), node="web-1")
    assert node.identity == NODE
    assert enrolment.identity == str(NODE)
    assert enrolment.trust_domain == TRUST_DOMAIN
    assert node.valid_at(now())
    for identity in (WEB, NODE):
        issued = await request_certificate(
            registry=registry.url, roots=enrolment.roots, node=node, identity=identity, now=now()
        )
        assert issued.held.identity == identity
        assert issued.held.key_pem != node.key_pem
        assert issued.roots == enrolment.roots


async def test_bundle_from_before_the_join(registry: RealRegistry) -> None:
    """A node that has just joined takes the bundle there is, and none that is older."""
    enrolment, _, _ = await join(registry=registry.url, token=await registry.token(), node="web-1")
    bundle = await read_bundle(registry.store)
    acceptable(bundle, enrolment, trust_domain=TRUST_DOMAIN)
    older = msgspec.structs.replace(bundle.spec, generation=bundle.spec.generation - 10)
    with pytest.raises(InvalidResource, match="older than"):
        acceptable(msgspec.structs.replace(bundle, spec=older), enrolment, trust_domain=TRUST_DOMAIN)


async def test_token_is_good_once(registry: RealRegistry) -> None:
    """A spent token is refused, and the operator is told how to make another."""
    token = await registry.token()
    await join(registry=registry.url, token=token, node="web-1")
    with pytest.raises(EnrolmentError, match="spent or past its time: `meshctl node token create`"):
        await join(registry=registry.url, token=token, node="web-2")


async def test_name_that_the_token_is_not_for(registry: RealRegistry) -> None:
    """A name outside the token's pattern is refused, and both sides of the mistake are named."""
    with pytest.raises(EnrolmentError, match="--node pattern matches this node's name") as caught:
        await join(registry=registry.url, token=await registry.token(), node="api-1")
    assert "api-1" in str(caught.value)


async def test_identity_that_is_not_listed(registry: RealRegistry) -> None:
    """A node gets no identity that its enrolment does not list."""
    enrolment, node, _ = await join(registry=registry.url, token=await registry.token(), node="web-1")
    with pytest.raises(EnrolmentError, match="enrolment must list the identity") as caught:
        await request_certificate(
            registry=registry.url, roots=enrolment.roots, node=node, identity=API, now=now()
        )
    assert str(API) in str(caught.value)


async def test_registry_of_another_mesh(registry: RealRegistry) -> None:
    """A registry whose root is not the token's gets no token: it stays good for the right one."""
    token = await registry.token()
    id_, secret = token.split(".")[1:3]
    with pytest.raises(EnrolmentError, match="its root has another fingerprint"):
        await join(registry=registry.url, token=f"nm1.{id_}.{secret}.{'0' * 64}", node="web-1")
    await join(registry=registry.url, token=token, node="web-1")


async def test_proof_of_an_unknown_mesh(registry: RealRegistry) -> None:
    """A node certificate of another root is refused."""
    enrolment, _, _ = await join(registry=registry.url, token=await registry.token(), node="web-1")
    stranger = make_authority(now=now()).held(NODE, now=now())
    with pytest.raises(EnrolmentError, match="or join again"):
        await request_certificate(
            registry=registry.url, roots=enrolment.roots, node=stranger, identity=NODE, now=now()
        )


async def test_registry_that_is_not_trusted(registry: RealRegistry) -> None:
    """After joining, a registry with another root is not spoken to."""
    enrolment, node, _ = await join(registry=registry.url, token=await registry.token(), node="web-1")
    assert enrolment.roots
    with pytest.raises(EnrolmentError, match="cannot reach the registry"):
        await request_certificate(
            registry=registry.url,
            roots=(make_authority(now=now()).root_pem,),
            node=node,
            identity=NODE,
            now=now(),
        )


async def test_registry_that_is_away() -> None:
    """A registry that does not answer is named with what to check."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    with pytest.raises(EnrolmentError, match=f"cannot reach the registry at https://127.0.0.1:{port}"):
        await join(registry=f"https://127.0.0.1:{port}", token=f"nm1.a.b.{'0' * 64}", node="web-1")


@pytest.mark.parametrize(
    "text", ["", "hello", "nm1.a.b", "nm1.a.b.c", f"nm2.a.b.{'0' * 64}", f"nm1.a.b.{'0' * 63}"]
)
def test_incomplete_token(text: str) -> None:
    """A token that was not copied whole is noticed before anything is sent."""
    with pytest.raises(EnrolmentError, match="copy the whole"):
        JoinToken.parse(text)


def test_proof_binds_the_body() -> None:
    """A proof is a JWT by the node's key over the body's hash, short-lived, with the chain in its header."""
    held = make_authority().held(NODE)
    proof = proof_of_possession(held, body=b"body", now=NOON)
    header = jwt.get_unverified_header(proof)
    leaf = x509.load_pem_x509_certificate(held.chain_pem.encode())
    claims = jwt.decode(
        proof,
        leaf.public_key(),  # type: ignore[arg-type]
        algorithms=["ES256"],
        audience="nodemesh-registry",
        options={"verify_exp": False, "verify_iat": False},
    )
    assert header["alg"] == "ES256"
    assert len(header["x5c"]) == 1
    assert claims["iss"] == claims["sub"] == str(NODE)
    assert claims["sha256"] == hashlib.sha256(b"body").hexdigest()
    assert 0 < claims["exp"] - claims["iat"] <= 300
    assert proof != proof_of_possession(held, body=b"body", now=NOON)


def certificates(registry: RealRegistry, keyring: Keyring, changed: trio.Event) -> Certificates:
    """Give the certificates of node web-1 with workload web."""
    return Certificates(
        keyring=keyring,
        registry=registry.url,
        workloads=[WEB],
        default=WEB,
        changed=changed.set,
        now=now,
        rng=seeded(),
        spread=60.0,
    )


async def test_certificates_are_obtained_and_kept(registry: RealRegistry, tmp_path: Path) -> None:
    """A joined node obtains its workloads' certificates; the next start has them without asking."""
    keyring = Keyring(tmp_path)
    await registry.join(keyring)
    changed = trio.Event()
    first = certificates(registry, keyring, changed)
    assert first.missing == [f"no valid certificate for {WEB}: not obtained yet"]
    assert first.update().default_identity == str(NODE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.keep_fresh)
        with trio.fail_after(30):
            await changed.wait()
        nursery.cancel_scope.cancel()
    assert first.missing == []
    assert first.update().default_identity == str(WEB)
    second = certificates(registry, keyring, trio.Event())
    assert second.missing == []
    assert second.update().credentials == first.update().credentials
    assert second.expires is not None
    assert timedelta(hours=23) < second.expires - now() <= timedelta(hours=24)


async def test_node_that_has_not_joined(registry: RealRegistry, tmp_path: Path) -> None:
    """Without enrolment there is nothing to run with."""
    with pytest.raises(ConfigError, match="run `nodemesh-proxy join"):
        certificates(registry, Keyring(tmp_path), trio.Event())


async def test_damaged_workload_certificate_is_replaced(registry: RealRegistry, tmp_path: Path) -> None:
    """A workload's damaged file costs a request, not the start."""
    keyring = Keyring(tmp_path)
    await registry.join(keyring)
    (tmp_path / "credentials" / "workload.default.web.pem").write_text("nonsense")
    changed = trio.Event()
    found = certificates(registry, keyring, changed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.keep_fresh)
        with trio.fail_after(30):
            await changed.wait()
        nursery.cancel_scope.cancel()
    assert found.missing == []


def test_chain_and_key_make_a_tls_context(tmp_path: Path) -> None:
    """What is held is what OpenSSL takes."""
    held: Held = make_authority().held(WEB)
    file = tmp_path / "both.pem"
    file.write_text(held.key_pem + held.chain_pem)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file)

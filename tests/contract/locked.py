"""An etcd that is locked down as in production: TLS, client certificates, users and roles."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca import issuer
from registry.etcd_server import HOST, EtcdPlan, find_etcd, free_ports
from registry.store.accounts import user_name
from registry.store.config import EtcdConfig
from tests.contract.certificates import Authority
from tests.contract.gateway import Gateway
from tests.contract.servers import OwnEtcd, run_members
from tests.fakes.signers import MeshKeys

PREFIX = "/nodemesh/v1/"


class LockedEtcd:
    """The running etcd, the authority of its operators, and the mesh whose nodes it knows."""

    def __init__(
        self, folder: Path, endpoint: str, operators: Authority, mesh: MeshKeys, member: OwnEtcd
    ) -> None:
        self._folder = folder
        self._member = member
        self._endpoint = endpoint
        self._operators = operators
        self.mesh = mesh

    async def trust(self, root_pem: str) -> None:
        """Take the clients of another mesh's root too, as an operator does who has founded it."""
        with _trusted(self._folder).open("a") as file:
            file.write(root_pem)
        await self._member.restart()

    @property
    def root(self) -> EtcdConfig:
        """How the registry reaches it: as etcd's root, by an operators' certificate."""
        cert, key = self._operators.issue("root")
        return self._config(cert, key)

    def node(self, name: str) -> EtcdConfig:
        """How a node reaches it, by a certificate as the registry issues it."""
        return self.holder(user_name(name, PREFIX))

    def holder(self, common_name: str) -> EtcdConfig:
        """How the holder of a certificate for an etcd user reaches it."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = issuer.issue_etcd_client(
            self.mesh.issuing,
            key.public_key(),
            common_name,
            serial=x509.random_serial_number(),
            now=datetime.now(UTC),
        )
        return self.with_chain(key, (certificate, self.mesh.issuing.certificate))

    def with_chain(self, key: ec.EllipticCurvePrivateKey, chain: tuple[x509.Certificate, ...]) -> EtcdConfig:
        """How the holder of any certificate of the mesh tries to reach it."""
        path = self._folder / f"{x509.random_serial_number():x}.pem"
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        # One file, as the agent keeps it.
        path.write_bytes(secret + "".join(map(issuer.to_pem, chain)).encode())
        return self._config(path, path)

    def _config(self, cert: Path, key: Path) -> EtcdConfig:
        return EtcdConfig(
            endpoints=(self._endpoint,),
            prefix=PREFIX,
            ca=self._operators.path,
            cert=cert,
            key=key,
            timeout=10,
        )


def _trusted(folder: Path) -> Path:
    return folder / "trusted.pem"


@contextmanager
def open_locked_etcd(folder: Path) -> Iterator[LockedEtcd]:
    """Run it for the length of the block; users are enabled, and there is only root."""
    mesh = MeshKeys(now=datetime.now(UTC))
    operators = Authority(folder, "operators")
    cert, key = operators.issue("server")
    roots = _trusted(folder)
    roots.write_text(operators.path.read_text() + "".join(map(issuer.to_pem, mesh.roots)))
    plain, tls, peer = free_ports(3)
    plan = EtcdPlan(
        binary=find_etcd(),
        data_dir=folder / "etcd",
        client_port=plain,
        peer_port=peer,
        extra=(
            # The plain one is asked for its health.
            f"--listen-client-urls=http://{HOST}:{plain},https://{HOST}:{tls}",
            f"--cert-file={cert}",
            f"--key-file={key}",
            f"--trusted-ca-file={roots}",
            "--client-cert-auth",
        ),
    )
    with run_members([plan]) as (member,):
        trio.run(_enable_users, Gateway(f"{HOST}:{plain}"))
        yield LockedEtcd(folder, f"{HOST}:{tls}", operators, mesh, member)


async def _enable_users(gateway: Gateway) -> None:
    await gateway.call("auth/user/add", name="root", password="root")
    await gateway.call("auth/role/add", name="root")
    await gateway.call("auth/user/grant", user="root", role="root")
    await gateway.call("auth/enable")

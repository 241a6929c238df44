"""What the store over etcd says when one of the two is not who it should be."""

from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from registry.errors import ConfigError, StoreUnavailable
from registry.etcd_server import HOST, EtcdPlan, find_etcd, free_ports
from registry.store.config import EtcdConfig
from registry.store.etcd import open_etcd
from tests.contract.certificates import Authority
from tests.contract.events import take, values
from tests.contract.servers import run_members
from tests.fakes.forwarder import open_forwarder

PREFIX = "/test/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder for certificates and etcd."""
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    """Give the authority of the server and its clients."""
    return Authority(folder, "ours")


@pytest.fixture(scope="module")
def endpoint(folder: Path, authority: Authority) -> Iterator[str]:
    """Run an etcd that speaks TLS and wants client certificates; gives ``host:port``."""
    cert, key = authority.issue("server")
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
            f"--trusted-ca-file={authority.path}",
            "--client-cert-auth",
        ),
    )
    with run_members([plan]):
        yield f"{HOST}:{tls}"


@pytest.fixture
def config(endpoint: str, authority: Authority) -> EtcdConfig:
    """Give the configuration of a client that has everything right, but little patience."""
    cert, key = authority.issue("client")
    return EtcdConfig(
        endpoints=(endpoint,), prefix=PREFIX, timeout=1.5, ca=authority.path, cert=cert, key=key
    )


async def test_right(config: EtcdConfig) -> None:
    """The right certificates open the store."""
    async with open_etcd(config) as store:
        revision = await store.put("a", b"1")
        async with aclosing(store.watch("", after=revision - 1)) as watch:
            assert values(await take(watch, 1)) == [b"1"]


async def test_wrong_ca(config: EtcdConfig, tmp_path: Path) -> None:
    """An etcd that the configured CA did not sign is not spoken to, and the error says why."""
    other = Authority(tmp_path, "other")
    async with open_etcd(replace(config, ca=other.path)) as store:
        with pytest.raises(StoreUnavailable, match="not signed by the configured ca"):
            await store.get("a")


async def test_wrong_name(config: EtcdConfig) -> None:
    """An etcd whose certificate is for another name is not spoken to, and the error says why."""
    port = int(config.endpoints[0].rpartition(":")[2])
    async with (
        open_forwarder(port, host="127.0.0.2") as (_, elsewhere),
        open_etcd(replace(config, endpoints=(elsewhere,))) as store,
    ):
        with pytest.raises(StoreUnavailable, match="for another name"):
            await store.get("a")


async def test_wrong_certificate(config: EtcdConfig, tmp_path: Path) -> None:
    """A client certificate that etcd does not accept, or none, is told from an etcd that is down."""
    cert, key = Authority(tmp_path, "other").issue("client")
    for wrong in (replace(config, cert=cert, key=key), replace(config, cert=None, key=None)):
        async with open_etcd(wrong) as store:
            with pytest.raises(StoreUnavailable, match="client certificate"):
                await store.get("a")


async def test_no_tls(config: EtcdConfig, etcd_endpoint: str) -> None:
    """An etcd that perhaps it does not speak TLS where TLS is configured is told from one that is down."""
    async with open_etcd(replace(config, endpoints=(etcd_endpoint,))) as store:
        with pytest.raises(StoreUnavailable, match="perhaps it does not speak TLS"):
            await store.get("a")


async def test_no_ca(config: EtcdConfig) -> None:
    """An etcd that speaks TLS where none is configured is told from one that is down."""
    async with open_etcd(replace(config, ca=None, cert=None, key=None)) as store:
        with pytest.raises(StoreUnavailable, match="perhaps it wants TLS"):
            await store.get("a")


async def test_missing_file(config: EtcdConfig, tmp_path: Path) -> None:
    """A file that cannot be read is a configuration error that names it."""
    with pytest.raises(ConfigError, match=r"absent\.pem"):
        async with open_etcd(replace(config, ca=tmp_path / "absent.pem")):
            pass

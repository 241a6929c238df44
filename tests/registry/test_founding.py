"""Founding a mesh: all of it, once, or nothing."""

import tomllib
from pathlib import Path

import pytest

from registry.ca.authority import Authority
from registry.ca.bundle import read_trust
from registry.ca.sealing import Kek
from registry.errors import ConfigError, StoreUnavailable
from registry.founding import Founded, found, is_founded
from registry.model.mesh import Mesh
from registry.model.parse import parse_as
from registry.store.memory import MemoryStore
from tests.registry.ca.material import KEK, SetClock

MESH = """
apiVersion: nodemesh/v1
kind: Mesh
metadata: {{name: mesh, namespace: nodemesh-system}}
spec: {{trustDomain: {}, defaultAuthorization: deny}}
"""


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def give_kek() -> Kek:
    return KEK


async def found_at(store: MemoryStore, config: Path, trust_domain: str = "mesh.test") -> Founded:
    return await found(
        store,
        trust_domain=trust_domain,
        make_kek=give_kek,
        server="https://registry.test:15010",
        admin_config=config,
        clock=SetClock(),
    )


async def read_mesh(store: MemoryStore) -> Mesh:
    item = await store.get("mesh")
    assert item is not None
    return parse_as(Mesh, item.value, where=item.key)


async def test_everything(store: MemoryStore, tmp_path: Path) -> None:
    """Root, bundle, settings and administrator are there at one revision; the file leads to them."""
    founded = await found_at(store, tmp_path / "meshctl.toml")
    listing = await store.list("")
    bundle = (await read_trust(store)).spec
    assert [item.key for item in listing.items] == [
        "administrators/admin",
        "ca/bundle",
        f"ca/keys/issuing-{bundle.issuer[:16]}",
        f"ca/keys/root-{founded.fingerprint[:16]}",
        "mesh",
    ]
    assert len({item.revision for item in listing.items}) == 1
    assert (await read_mesh(store)).spec.trust_domain == "mesh.test"
    assert (await Authority.load(store, kek=KEK, clock=SetClock())).fingerprint == founded.fingerprint
    config = tomllib.loads(founded.admin_config.read_text())
    assert set(config) == {"server", "token", "ca_pem"}
    assert config["ca_pem"].startswith("-----BEGIN CERTIFICATE-----\n")


async def test_once(store: MemoryStore, tmp_path: Path) -> None:
    """A second founding is refused, makes no key, and leaves no file."""
    await found_at(store, tmp_path / "first")

    async def make_kek() -> Kek:
        raise AssertionError("a key was made for nothing")

    with pytest.raises(ConfigError, match="holds a mesh already"):
        await found(
            store,
            trust_domain="mesh.test",
            make_kek=make_kek,
            server="",
            admin_config=tmp_path / "second",
            clock=SetClock(),
        )
    assert not (tmp_path / "second").exists()


async def test_race(store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two who found at once one does, and the other keeps no file of a mesh that is not."""
    unfounded = MemoryStore()
    await found_at(store, tmp_path / "first")
    # What the second one read before the first one wrote.
    monkeypatch.setattr(store, "get", unfounded.get)
    with pytest.raises(ConfigError, match="holds a mesh already"):
        await found_at(store, tmp_path / "second")
    assert not (tmp_path / "second").exists()


async def test_settings_of_before(store: MemoryStore, tmp_path: Path) -> None:
    """Settings that an operator wrote before are kept."""
    await store.put("mesh", MESH.format("mesh.test").encode())
    await found_at(store, tmp_path / "meshctl.toml")
    assert (await read_mesh(store)).spec.default_authorization.value == "deny"


async def test_settings_of_another(store: MemoryStore, tmp_path: Path) -> None:
    """Settings that speak of another trust domain are not overruled."""
    await store.put("mesh", MESH.format("other.test").encode())
    with pytest.raises(ConfigError, match=r"other\.test"):
        await found_at(store, tmp_path / "meshctl.toml")
    assert not await is_founded(store)


async def test_store_away(store: MemoryStore, tmp_path: Path) -> None:
    """With the store away nothing is left behind."""
    with store.outage(), pytest.raises(StoreUnavailable):
        await found_at(store, tmp_path / "meshctl.toml")
    assert not (tmp_path / "meshctl.toml").exists()


@pytest.mark.parametrize("trust_domain", ["", "Mesh.test", "mesh test", "mesh.test\n", "-mesh"])
async def test_bad_trust_domain(store: MemoryStore, tmp_path: Path, trust_domain: str) -> None:
    """A trust domain that no identity could be in is refused."""
    with pytest.raises(ConfigError, match="trust domain"):
        await found_at(store, tmp_path / "meshctl.toml", trust_domain)

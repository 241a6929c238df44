"""``meshctl ca`` over the real application."""

import json
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from typer.testing import Result

from registry.ca import issuer
from registry.cli.config import ConfigFile
from registry.model.identity import WorkloadIdentity
from tests.registry.ca.material import new_key
from tests.registry.cli.backends import RealBackend, open_real
from tests.registry.cli.conftest import NOW, Meshctl


@pytest.fixture
def real() -> Iterator[RealBackend]:
    with open_real() as backend:
        yield backend


@pytest.fixture
def transport(real: RealBackend, environment: dict[str, str | None]) -> httpx.BaseTransport:
    environment["MESHCTL_TOKEN"] = real.token
    return real.transport


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def test_status(meshctl: Meshctl) -> None:
    """Root and intermediate are shown with the days they have left."""
    text = ok(meshctl("ca status"))
    assert [line.split()[0] for line in text.splitlines()] == ["CERTIFICATE", "root", "intermediate"]
    seen = json.loads(ok(meshctl("ca status -o json")))
    assert seen["issuer"]["daysLeft"] >= 363


def test_rotation(meshctl: Meshctl) -> None:
    """A rotation of the root is begun, shown with what it waits for, forced on, and done."""
    assert "spread" in ok(meshctl("ca rotate --root"))
    assert "waits: the registry's replicas take it in, until" in ok(meshctl("ca status"))
    held = meshctl("ca rotate --continue")
    assert (held.exit_code, "waits" in held.stdout) == (1, True)
    assert "the new intermediate issues" in ok(meshctl("ca rotate --continue --force"))
    assert meshctl("ca rotate --abort").exit_code == 6
    assert ok(meshctl("ca rotate --continue --force")) == "rotation done\n"
    assert meshctl("ca rotate --continue").exit_code == 1


def test_abort(meshctl: Meshctl) -> None:
    """A rotation is given up."""
    ok(meshctl("ca rotate --root"))
    assert ok(meshctl("ca rotate --abort")) == "rotation given up\n"
    assert "rotation" not in ok(meshctl("ca status"))


@pytest.mark.parametrize("words", ["--root --abort", "--force", "--continue --root"])
def test_rotation_misused(meshctl: Meshctl, words: str) -> None:
    """Words that contradict each other are refused before anything is done."""
    assert meshctl(f"ca rotate {words}").exit_code == 2


def test_revocation(meshctl: Meshctl) -> None:
    """What is revoked is shown with its reason, and lifted again."""
    ok(meshctl("ca revoke --identity default/web --reason 'copied key'"))
    text = ok(meshctl("ca status"))
    assert "spiffe://nodemesh.local/ns/default/sa/web" in text
    assert "copied key" in text
    ok(meshctl("ca unrevoke --identity default/web"))
    assert "copied key" not in ok(meshctl("ca status"))
    assert meshctl("ca unrevoke --identity default/web").exit_code == 1


def test_revoking_nobody(meshctl: Meshctl) -> None:
    """A node's name that is nobody's is doubted."""
    result = meshctl("ca revoke --node wbe-1")
    assert result.exit_code == 0
    assert "no node named wbe-1 is enrolled" in result.stderr


@pytest.mark.parametrize("words", ["", "--node a --serial b"])
def test_revoking_what(meshctl: Meshctl, words: str) -> None:
    """One thing is revoked at a time."""
    result = meshctl(f"ca revoke {words}")
    assert (result.exit_code, "give one of" in result.stderr) == (2, True)


def test_inspect_bundle(meshctl: Meshctl) -> None:
    """The trust bundle's roots are taken apart."""
    # By meshctl's clock, which stands still in these tests, the root is from the future.
    (item,) = json.loads(meshctl("ca inspect -o json").stdout)["items"]
    (root,) = item["certificates"]
    assert (root["authority"], root["pathLength"]) == (True, 1)
    assert root["names"] == ["spiffe://nodemesh.local"]


class TestInspectFiles:
    """Without a registry: none is configured."""

    @pytest.fixture
    def environment(self, environment: dict[str, str | None]) -> dict[str, str | None]:
        """Name no registry."""
        return environment | {"MESHCTL_SERVER": None, "MESHCTL_TOKEN": None}

    @pytest.fixture
    def transport(self) -> httpx.BaseTransport:
        """Answer nothing."""

        def refuse(request: httpx.Request) -> httpx.Response:
            raise AssertionError(f"{request.url} was asked")

        return httpx.MockTransport(refuse)

    @staticmethod
    def write(folder: Path, *, issued: timedelta = timedelta(0)) -> tuple[Path, Path]:
        """Write a leaf's chain, and its root."""
        then = NOW + issued
        root = issuer.make_root(new_key(), trust_domain="mesh.test", serial=1, now=then)
        middle = issuer.make_intermediate(root, new_key(), trust_domain="mesh.test", serial=2, now=then)
        identity = WorkloadIdentity("mesh.test", "default", "web")
        leaf = issuer.issue_leaf(
            middle, new_key().public_key(), identity, node="web-1", serial=0x5F3A, now=then
        )
        chain, roots = folder / "chain.pem", folder / "roots.pem"
        chain.write_text(issuer.to_pem(leaf) + issuer.to_pem(middle.certificate))
        roots.write_text(issuer.to_pem(root.certificate))
        return chain, roots

    def test_good(self, meshctl: Meshctl, tmp_path: Path) -> None:
        """A good chain is shown, and believed by its root."""
        chain, roots = self.write(tmp_path)
        text = ok(meshctl(f"ca inspect {chain} --roots {roots} --trust-domain mesh.test"))
        facts = [" ".join(line.split()) for line in text.splitlines()]
        assert "names spiffe://mesh.test/ns/default/sa/web" in facts
        assert "node web-1" in facts
        assert "serial 5f3a" in facts
        assert "authority yes, path length 0" in facts
        assert "usage digitalSignature, clientAuth, serverAuth" in facts
        assert "chain: a peer with these roots would believe it" in facts

    def test_expired(self, meshctl: Meshctl, tmp_path: Path) -> None:
        """An expired one is told since when."""
        chain, roots = self.write(tmp_path, issued=timedelta(hours=-29))
        result = meshctl(f"ca inspect {chain} --roots {roots} --trust-domain mesh.test")
        assert result.exit_code == 1
        assert "expired 5 hours ago" in result.stdout
        assert "chain: the certificate expired at 2026-01-01T07:00:00Z" in result.stdout

    def test_other_root(self, meshctl: Meshctl, tmp_path: Path) -> None:
        """A chain of another root is not believed."""
        (tmp_path / "other").mkdir()
        chain, _ = self.write(tmp_path)
        _, roots = self.write(tmp_path / "other")
        result = meshctl(f"ca inspect {chain} --roots {roots} --trust-domain mesh.test")
        assert (result.exit_code, "not of this mesh" in result.stdout) == (1, True)

    def test_nonsense(self, meshctl: Meshctl, tmp_path: Path) -> None:
        """A file that holds no certificate is named."""
        path = tmp_path / "nonsense.pem"
        path.write_text("nonsense")
        result = meshctl(f"ca inspect {path}")
        assert (result.exit_code, f"{path}: holds no certificate" in result.stderr) == (2, True)


def test_federation(meshctl: Meshctl, tmp_path: Path) -> None:
    """Another mesh is recognised, shown, inspected, and recognised no more."""
    root = issuer.make_root(new_key(), trust_domain="other.test", serial=1, now=NOW + timedelta(days=300))
    path = tmp_path / "roots.pem"
    path.write_text(issuer.to_pem(root.certificate))
    ok(meshctl(f"ca federate --trust-domain other.test --roots {path}"))
    assert "federated: other.test" in ok(meshctl("ca status"))
    ok(meshctl("ca unfederate --trust-domain other.test"))
    assert "other.test" not in ok(meshctl("ca status"))


class TestPin:
    @pytest.fixture
    def config(
        self, real: RealBackend, environment: dict[str, str | None], tmp_path: Path, meshctl: Meshctl
    ) -> Path:
        """Write a configuration that pins the root of now."""
        value = real.value("ca/bundle")
        assert value is not None
        (root,) = json.loads(value)["spec"]["rootsPem"]
        path = tmp_path / "meshctl.toml"
        path.write_text(f'# mine\nserver = "https://r:1"\ntoken = "{real.token}"\nca_pem = """\n{root}"""\n')
        path.chmod(0o600)
        environment |= {"MESHCTL_SERVER": None, "MESHCTL_TOKEN": None, "MESHCTL_CONFIG": str(path)}
        return path

    def test_pinned(self, meshctl: Meshctl, config: Path) -> None:
        """After a rotation of the root the new one takes the old one's place, and nothing else is touched."""
        before = config.read_text()
        ok(meshctl("ca rotate --root"))
        for _ in range(2):
            ok(meshctl("ca rotate --continue --force"))
        assert "run `meshctl ca pin`" in meshctl("ca status").stderr
        ok(meshctl("ca pin"))
        assert "ca pin" not in meshctl("ca status").stderr
        after = config.read_text()
        assert after.startswith("# mine\n")
        assert after.count("BEGIN CERTIFICATE") == 1
        assert after != before
        assert set(tomllib.loads(after)) == set(ConfigFile.__struct_fields__)
        assert config.stat().st_mode & 0o777 == 0o600

    def test_nothing_to_write(self, meshctl: Meshctl) -> None:
        """Roots that are from no file are left to who gave them."""
        result = meshctl("ca pin")
        assert (result.exit_code, "not from a configuration file" in result.stderr) == (2, True)

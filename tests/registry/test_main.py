"""The words of nodemesh-registry's command line: what makes no sense is told what would."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from registry.main import app


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Undo the logging that a command sets up for its process."""
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("serve", "--listen", "15010"), "host:port"),
        (("serve", "--listen", "::1:15010"), "host:port"),
        (("serve", "--listen", "127.0.0.1:70000"), "65535"),
        (("serve", "--etcd", "nonsense"), "host:port"),
        (("serve", "--etcd-prefix", "/nodemesh"), "slash"),
        (("serve", "--certificate-lifetime", "24"), "24h"),
        (("serve", "--etcd-user", "root", "--etcd-password-file", "/nonexistent"), "/nonexistent"),
        (("serve", "--etcd-cert", "x"), "cert and key"),
        (("serve", "--etcd-ca", "/nonexistent"), "/nonexistent"),
        (("serve", "--ca-passphrase-file", "/nonexistent"), "/nonexistent"),
        (("serve", "--log-level", "loud"), "--log-level"),
        (("init", "--trust-domain", "Mesh_Test!"), "trust domain"),
        (("init", "--listen", "127.0.0.1:0"), "--listen"),
        (("--dev", "--listen", "nonsense"), "host:port"),
    ],
)
def test_nonsense(words: tuple[str, ...], hint: str, tmp_path: Path) -> None:
    """A word that makes no sense ends with exit code 2 and one line that has the mend."""
    first = ("--state-dir", str(tmp_path))
    given = (*first, *words) if words[0] == "--dev" else (words[0], *first, *words[1:])
    result = CliRunner().invoke(app, given)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("nodemesh-registry: ")
    assert hint in line


@pytest.mark.parametrize(("words", "code"), [((), 2), (("--help",), 0), (("--dev", "serve"), 2)])
def test_usage(words: tuple[str, ...], code: int) -> None:
    """Without a command, or with one too many, there is help."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code
    assert "Usage" in result.output

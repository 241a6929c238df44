from pathlib import Path

import pytest

from node_proxy.config import load_proxy
from node_proxy.dns_settings import DnsSection
from node_proxy.errors import ConfigError

BASE = 'node = "web-1"\naddress = "10.0.0.1"\nregistry = "https://registry:15010"\n'


def read(folder: Path, *lines: str) -> DnsSection:
    """Read proxy.toml with this table [dns]."""
    file = folder / "proxy.toml"
    file.write_text(BASE + "[dns]\n" + "\n".join(lines) + "\n")
    return load_proxy(file).dns


def test_defaults(tmp_path: Path) -> None:
    """Nothing is served unless it is said so; then on loopback, for .mesh, and for nothing else."""
    section = read(tmp_path)
    assert not section.enabled
    assert not section.forward
    assert (section.listen, section.domain, section.ttl) == (("127.0.0.1:15053",), "mesh", 5)


def test_everything(tmp_path: Path) -> None:
    """All fields can be written."""
    section = read(
        tmp_path,
        "enabled = true",
        'listen = ["127.0.0.1:53", "[::1]:53"]',
        'domain = "svc.example"',
        'namespace = "shop"',
        "ttl = 30",
        "forward = true",
        'upstreams = ["10.0.0.53", "[fd00::53]:5353"]',
    )
    assert section.upstreams == ("10.0.0.53", "[fd00::53]:5353")


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (['domain = "Mesh"'], r"dns\.domain: 'Mesh' is no domain; write lower-case labels"),
        (['domain = "mesh."'], r"dns\.domain: 'mesh\.' is no domain"),
        (['listen = ["0.0.0.0:53"]'], r"dns\.listen\[0\]: 0\.0\.0\.0:53 is not on loopback.*127\.0\.0\.1:53"),
        (['upstreams = ["10.0.0.53"]'], r"dns\.upstreams: nothing is forwarded; add forward = true"),
        (
            ["forward = true", 'upstreams = ["dns.example"]'],
            r"dns\.upstreams\[0\]: 'dns\.example' is not a resolver's address; write 10\.0\.0\.53",
        ),
        (
            ["forward = true", 'upstreams = ["127.0.0.1:15053"]'],
            r"dns\.upstreams\[0\]: 127\.0\.0\.1:15053 is this resolver itself",
        ),
        (
            ["enabled = true", 'listen = ["127.0.0.1:15020"]'],
            r"dns\.listen\[0\]: 127\.0\.0\.1:15020 overlaps 127\.0\.0\.1:15020 of admin\.listen",
        ),
        (["listn = []"], r"dns: .*unknown field `listn`; did you mean listen\?"),
    ],
)
def test_complaints(tmp_path: Path, lines: list[str], complaint: str) -> None:
    """What is wrong is named with its field and how to mend it."""
    with pytest.raises(ConfigError, match=complaint):
        read(tmp_path, *lines)

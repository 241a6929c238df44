"""A configuration that cannot work is refused with what to write instead."""

from pathlib import Path

import pytest

from registry.errors import ConfigError
from registry.store.config import EtcdConfig


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:2379", "[::1]:2379", "[fe80::1%eth0]:2379", "etcd-1.example:1"]
)
def test_endpoints(endpoint: str) -> None:
    """An address or a name with a port is an endpoint."""
    assert EtcdConfig(endpoints=(endpoint,)).endpoints == (endpoint,)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "127.0.0.1",
        "::1:2379",
        "http://127.0.0.1:2379",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "a b:1",
        "a:1\n",
    ],
)
def test_no_endpoint(endpoint: str) -> None:
    """Anything else is not, and the error shows how one looks."""
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:2379"):
        EtcdConfig(endpoints=(endpoint,))


def test_contradictions() -> None:
    """Values that belong together are given together."""
    some = Path("some.pem")
    one = ("127.0.0.1:2379",)
    with pytest.raises(ConfigError, match="at least one"):
        EtcdConfig(endpoints=())
    with pytest.raises(ConfigError, match="slash"):
        EtcdConfig(endpoints=one, prefix="/nodemesh")
    with pytest.raises(ConfigError, match="both or neither"):
        EtcdConfig(endpoints=one, ca=some, cert=some)
    with pytest.raises(ConfigError, match="needs TLS"):
        EtcdConfig(endpoints=one, cert=some, key=some)
    with pytest.raises(ConfigError, match="both or neither"):
        EtcdConfig(endpoints=one, user="root")
    with pytest.raises(ConfigError, match="timeout"):
        EtcdConfig(endpoints=one, timeout=0)


def test_password_is_not_shown() -> None:
    """A configuration that is logged keeps its password."""
    assert "secret" not in repr(EtcdConfig(endpoints=("a:1",), user="root", password="secret"))

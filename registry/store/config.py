"""How to reach etcd, checked. Imports neither etcd3 nor grpc, so that reading a configuration is cheap."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from registry.errors import ConfigError
from registry.store.keys import DEFAULT_PREFIX

_ENDPOINT = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\[\]:/\s]+):(?P<port>\d{1,5})\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdConfig:
    """Where etcd is and who we are to it.

    Args:
        endpoints: ``host:port`` or ``[v6]:port``, each a member of the one cluster.
        prefix: what every key begins with; ends in a slash.
        ca: PEM file with the roots of etcd's server certificate; None means plaintext.
        cert: PEM file with our client certificate; etcd takes its CN as the user.
        key: PEM file with the certificate's key.
        user: a user with a password, where no certificate says who we are.
        password: the user's password.
        timeout: seconds within which a call must succeed, retries and elections included.

    Raises:
        ConfigError: the values contradict each other or an endpoint is no ``host:port``.
    """

    endpoints: tuple[str, ...]
    prefix: str = DEFAULT_PREFIX
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout: float = 5.0

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ConfigError("etcd: no endpoints; write at least one host:port")
        for endpoint in self.endpoints:
            match = _ENDPOINT.match(endpoint)
            if match is None or not 0 < int(match["port"]) < 65536:
                raise ConfigError(f"etcd: endpoint {endpoint!r} is not host:port; write it as 127.0.0.1:2379")
        if not self.prefix.endswith("/"):
            raise ConfigError(f"etcd: prefix {self.prefix!r} does not end in a slash; write {self.prefix}/")
        if (self.cert is None) != (self.key is None):
            raise ConfigError("etcd: cert and key belong together; give both or neither")
        if self.cert is not None and self.ca is None:
            raise ConfigError("etcd: a client certificate needs TLS; give the ca of etcd's certificate too")
        if (self.user is None) != (self.password is None):
            raise ConfigError("etcd: user and password belong together; give both or neither")
        if self.timeout <= 0:
            raise ConfigError(f"etcd: timeout {self.timeout} is not above zero seconds")

"""Where the API listens, and under which names it is reached."""

import socket
from dataclasses import dataclass

from registry.errors import ConfigError

DEFAULT_LISTEN = "127.0.0.1:15010"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def wildcard(self) -> bool:
        """Whether it stands for every address of the host."""
        return self.host in ("0.0.0.0", "::")  # noqa: S104 - recognised, not bound


def parse_address(text: str) -> Address:
    """Read ``host:port`` or ``[v6]:port``.

    Raises:
        ConfigError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or (":" in bare) != host.startswith("[") or not port.isdecimal():
        raise ConfigError(f"--listen {text!r}: write host:port, as in {DEFAULT_LISTEN}")
    if int(port) > 65535:
        raise ConfigError(f"--listen {text!r}: a port is at most 65535")
    return Address(bare, int(port))


def listen(address: Address) -> socket.socket:
    """Open the listening socket.

    Raises:
        ConfigError: the address is not this host's, or taken.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise ConfigError(f"cannot listen on {address}: {error.strerror}") from error


def url_of(address: Address, names: tuple[str, ...]) -> str:
    """Give the URL under which the API is reached: by the first name given, else by address."""
    host = names[0] if names else "127.0.0.1" if address.wildcard else address.host
    return f"https://{Address(host, address.port)}"


def certificate_names(address: Address, names: tuple[str, ...]) -> tuple[str, ...]:
    """Give what the API's certificate is good for: the names given, this host's name and loopback."""
    listening = () if address.wildcard else (address.host,)
    return tuple(dict.fromkeys((*names, *listening, socket.gethostname(), "localhost", "127.0.0.1", "::1")))

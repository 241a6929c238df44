"""Where something listens: an IP literal and a port, as operators write it. Nothing is resolved or opened."""

import ipaddress

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
# unix(7): sun_path has 108 bytes with the zero at its end, and the file is made under a name of five more.
LONGEST_PATH = 102


class SocketAddress(str):
    """``address:port`` or ``[v6 address]:port``, an IP literal; port 0 lets the kernel choose.

    Raises:
        ValueError: the text is something else.
    """

    __slots__ = ("ip", "port")

    ip: IPAddress
    port: int

    def __new__(cls, text: str) -> "SocketAddress":
        """Read the text."""
        self = super().__new__(cls, text)
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{text!r} is not address:port; write it as 127.0.0.1:15008 or [::1]:15008")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r} needs brackets around its IPv6 address; write [{host}]:{port}")
        try:
            self.ip = ipaddress.ip_address(host)
        except ValueError as error:
            raise ValueError(f"{host!r} is not an IP address; write one, as in 127.0.0.1:15008") from error
        self.port = int(port)
        return self

    def overlaps(self, other: "SocketAddress") -> bool:
        """Whether both cannot be bound at once: same port, same address or a wildcard of the same family."""
        return (
            self.port == other.port != 0
            and self.ip.version == other.ip.version
            and (self.ip == other.ip or self.ip.is_unspecified or other.ip.is_unspecified)
        )


class ListenAddress(str):
    """A `SocketAddress`, or ``unix:/path`` for a Unix socket; `path` and `tcp` say which.

    Raises:
        ValueError: the text is something else.
    """

    __slots__ = ("path", "tcp")

    path: str | None
    tcp: SocketAddress | None

    def __new__(cls, text: str) -> "ListenAddress":
        """Read the text."""
        self = super().__new__(cls, text)
        self.path = self.tcp = None
        if text.startswith("unix:"):
            self.path = text.removeprefix("unix:")
            if not self.path.startswith("/") or self.path.endswith("/") or "\0" in self.path:
                raise ValueError(
                    f"{text!r} names no file; write an absolute path, as unix:/run/nodemesh/socks"
                )
            if len(self.path.encode()) > LONGEST_PATH:
                raise ValueError(f"{text!r} is longer than the {LONGEST_PATH} bytes of a Unix socket's path")
        else:
            self.tcp = SocketAddress(text)
        return self


def canonical(host: str) -> str:
    """Give an IP literal in its one canonical form: without a zone, IPv4 not as IPv6.

    Raises:
        ValueError: the text is no IP literal.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def join_address(host: str, port: int) -> str:
    """Write an IP literal and a port as one text, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

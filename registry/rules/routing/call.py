"""A request as routing sees it. Pure."""

from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from registry.rules.paths import normalise

Field = tuple[bytes, bytes]
Fields = list[Field]

# Parameters beyond these are not looked at, so that a query of 16 KiB costs what a usual one does.
MAX_QUERY_PARAMETERS = 256


class HttpCall:
    """A request: what rules are matched against. What few rules ask for is made when it is asked for.

    Args:
        method: as it came.
        host: the authority as it came, perhaps with a port; empty if the request has none.
        path: the target as it came, with its query.
        headers: by names in lower case, the values of one name joined by ``,``.
    """

    __slots__ = ("_fields", "_headers", "_hostname", "_params", "_path", "host", "method", "path")

    def __init__(
        self, *, method: str, host: str, path: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.method = method
        self.host = host
        self.path = path
        self._headers: Mapping[str, str] | None = headers or {}
        self._fields: Fields = []
        self._hostname: str | None = None
        self._path: str | None = None
        self._params: dict[str, str] | None = None

    @classmethod
    def read(cls, method: bytes, authority: bytes, target: bytes, fields: Fields) -> "HttpCall":
        """Make it of a message's parts; `fields` are read when a rule asks for one."""
        call = cls(
            method=method.decode("latin-1"), host=authority.decode("latin-1"), path=target.decode("latin-1")
        )
        call._headers = None
        call._fields = fields
        return call

    @property
    def headers(self) -> Mapping[str, str]:
        """The header by names in lower case, the values of one name joined by ``,``."""
        if self._headers is None:
            joined: dict[str, str] = {}
            for name, value in self._fields:
                key, text = name.decode("latin-1"), value.decode("latin-1")
                joined[key] = f"{joined[key]},{text}" if key in joined else text
            self._headers = joined
        return self._headers

    @property
    def hostname(self) -> str:
        """The host in lower case, without its port."""
        if self._hostname is None:
            self._hostname = hostname_of(self.host)
        return self._hostname

    @property
    def normal_path(self) -> str:
        """The path in its one spelling, without query (`registry.rules.paths`)."""
        if self._path is None:
            self._path = normalise(self.path)
        return self._path

    def parameter(self, name: str) -> str | None:
        """Give a query parameter, decoded; the first of that name."""
        if self._params is None:
            self._params = _read_query(self.path.partition("#")[0].partition("?")[2])
        return self._params.get(name)


def hostname_of(authority: str) -> str:
    """Give the host of an authority, in lower case and without its port."""
    host = authority.lower()
    if host.startswith("["):
        return f"{host.partition(']')[0]}]"
    return host.partition(":")[0]


def _read_query(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in query.split("&", MAX_QUERY_PARAMETERS)[:MAX_QUERY_PARAMETERS]:
        name, _, value = part.partition("=")
        found.setdefault(_decode(name), _decode(value))
    return found


def _decode(text: str) -> str:
    if "%" not in text and "+" not in text:
        return text
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "replace")

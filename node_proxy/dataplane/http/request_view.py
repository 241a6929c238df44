"""A request as the rules see it. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final

from node_proxy.dataplane.http.message import Fields, RequestHead
from registry.rules import HttpRequest
from registry.rules.request import Repeated

# RFC 9110 section 9.2.2: to do these twice is to do them once.
IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})


class HeaderView(Mapping[str, str]):
    """A header by names in lower case; made when the first rule asks, since most ask for none.

    A field that came several times is `Repeated`. Bytes that are no UTF-8 match nothing that a policy says,
    and stay apart from each other.
    """

    __slots__ = ("_fields", "_known")

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._known: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        return self._values()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def _values(self) -> dict[str, str]:
        if self._known is None:
            found: dict[str, list[str]] = {}
            for name, value in self._fields:
                found.setdefault(_text(name), []).append(_text(value))
            self._known = {
                name: values[0] if len(values) == 1 else Repeated(values) for name, values in found.items()
            }
        return self._known


def view_request(head: RequestHead) -> HttpRequest:
    """Give a request as the rules see it."""
    return HttpRequest(_text(head.method), _text(head.target), _text(head.authority), HeaderView(head.fields))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")

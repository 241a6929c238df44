"""Requests' bodies in, answers out: JSON as typed values."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from registry.errors import InvalidResource, PayloadTooLarge
from registry.model.identity import LABEL

# etcd takes 1.5 MiB a value; no honest body is larger.
MAX_BODY = 2 << 20
# A token and a certificate request are 2 KiB; those who send them are not known yet.
MAX_PUBLIC_BODY = 64 << 10

T = TypeVar("T")


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of request bodies: a field we do not know is an error."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of answers: every field is written out, unknown ones are null."""


async def read_body(request: Request, *, limit: int = MAX_BODY) -> bytes:
    """Read a request's body, giving up as soon as it is too large.

    Raises:
        PayloadTooLarge: over `limit` bytes.
    """
    claimed = request.headers.get("content-length", "")
    if claimed.isdecimal() and int(claimed) > limit:
        raise _too_large(limit)
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"a body of at most {limit} bytes is read")


def decode(body: bytes, kind: type[T]) -> T:
    """Read a JSON body.

    Raises:
        InvalidResource: not JSON, or not of this kind; says which field.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason, _, path = str(error).partition(" - at `$.")
        raise InvalidResource(where="request body", path=path.rstrip("`"), reason=reason) from error


def answer(value: object, *, headers: Mapping[str, str] | None = None) -> Response:
    """Give an answer in JSON."""
    return Response(msgspec.json.encode(value), media_type="application/json", headers=headers)


def namespace_asked(request: Request) -> str | None:
    """Give the namespace that a list is asked for; None means all.

    Raises:
        InvalidResource: it cannot be a namespace.
    """
    namespace = request.query_params.get("namespace") or None
    if namespace is not None and not LABEL.match(namespace):
        raise InvalidResource(
            where="request", path="namespace", reason=f"{namespace!r} cannot be a namespace"
        )
    return namespace

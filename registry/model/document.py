"""Bytes to plain values: JSON and YAML, both as strict as JSON can be.

Pure. What comes out holds mappings with text keys, lists, text, numbers, booleans and None, no field
twice, nothing deeper than MAX_DEPTH; what it means is `registry.model.parse`'s business.
"""

import json
from typing import Final

from registry.errors import InvalidResource
from registry.model.fields import MAX_DEPTH, Trail, repeated_field, too_deep, trail_path
from registry.model.yaml_tree import read_yaml

# etcd's default --max-request-bytes: a larger value could not have been stored.
MAX_BYTES: Final = 1536 * 1024
# Reading YAML takes ten times as long as JSON, and no hand writes a larger value.
MAX_YAML_BYTES: Final = 256 * 1024
# A file for `meshctl apply` may hold many resources.
MAX_FILE_BYTES: Final = 16 * 1024 * 1024


def read_document(data: bytes, *, where: str) -> object:
    """Read the single JSON or YAML document in `data`.

    Raises:
        InvalidResource: too large, neither JSON nor YAML, empty, several documents, or malformed inside.
    """
    documents = _read(data, where=where, limit=MAX_BYTES, yaml_limit=MAX_YAML_BYTES)
    if not documents:
        raise InvalidResource(
            where=where, path="", reason="is empty", mend="write a resource, or delete the key"
        )
    if len(documents) > 1:
        raise InvalidResource(
            where=where,
            path="",
            reason=f"holds {len(documents)} documents",
            mend="write one resource per key; `meshctl apply -f` takes files with several",
        )
    return documents[0]


def read_documents(data: bytes, *, where: str) -> list[tuple[str, object]]:
    """Read a file of any number of YAML documents, or one of JSON; gives (where, value) for each.

    Empty documents are passed over.

    Raises:
        InvalidResource: as `read_document`.
    """
    documents = _read(data, where=where, limit=MAX_FILE_BYTES, yaml_limit=MAX_FILE_BYTES)
    if len(documents) == 1:
        return [(where, documents[0])]
    return [(f"{where} (document {number})", value) for number, value in enumerate(documents, start=1)]


def inspect(value: object, *, where: str) -> None:
    """Check that plain values are ones that can be written out again.

    Raises:
        InvalidResource: a field twice, nested too deep, text that is not Unicode, a number out of range.
    """
    pending: list[tuple[Trail, int, object]] = [(None, 0, value)]
    while pending:
        trail, depth, item = pending.pop()
        if depth > MAX_DEPTH:
            raise too_deep(where, trail)
        match item:
            case _RepeatedField():
                raise repeated_field(where, (trail, item.field))
            case dict():
                for key, inner in item.items():
                    _check_text(key, where=where, trail=trail)
                    pending.append(((trail, key), depth + 1, inner))
            case list():
                pending.extend(((trail, i), depth + 1, inner) for i, inner in enumerate(item))
            case str():
                _check_text(item, where=where, trail=trail)
            case int() if not -(2**63) <= item < 2**63:
                raise InvalidResource(
                    where=where, path=trail_path(trail), reason="the number is out of range"
                )
            case _:
                pass


def _read(data: bytes, *, where: str, limit: int, yaml_limit: int) -> list[object]:
    if len(data) > limit:
        raise _too_long(where, data, f"at most {limit} bytes are read")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidResource(
            where=where, path="", reason=f"is not UTF-8 text (byte {error.start})", mend="write JSON or YAML"
        ) from None
    if not text.lstrip().startswith(("{", "[")):
        if len(data) > yaml_limit:
            raise _too_long(where, data, f"at most {yaml_limit} bytes of YAML are read; write it as JSON")
        return _yaml(text, where)
    try:
        return [json.loads(text, object_pairs_hook=_object)]
    except RecursionError:
        raise too_deep(where) from None
    except ValueError as error:
        not_json = InvalidResource(where=where, path="", reason=f"is not valid JSON: {error}")
    # It may still be YAML in its flow style, which begins alike.
    if len(data) > yaml_limit:
        raise not_json
    try:
        return _yaml(text, where)
    except InvalidResource as error:
        raise (error if error.path else not_json) from None


def _too_long(where: str, data: bytes, mend: str) -> InvalidResource:
    return InvalidResource(where=where, path="", reason=f"is {len(data)} bytes long", mend=mend)


def _yaml(text: str, where: str) -> list[object]:
    return [document for document in read_yaml(text, where=where) if document is not None]


class _RepeatedField(dict[str, object]):
    """A JSON object in which `field` stands twice; kept until its path is known."""

    field: str


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    repeated = _RepeatedField(fields)
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            repeated.field = name
        seen.add(name)
    return repeated


def _check_text(text: str, *, where: str, trail: Trail) -> None:
    # JSON escapes can spell half of a surrogate pair, which no UTF-8 can carry.
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidResource(where=where, path=trail_path(trail), reason="the text is not valid Unicode")

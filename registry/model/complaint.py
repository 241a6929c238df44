"""From msgspec's complaint to ours: which field, what is wrong with it, and what to write instead.

Pure. The one place that knows how msgspec words its errors; a wording it does not know is passed on as it is.
"""

import difflib
import re
from typing import Final

import msgspec
from msgspec import inspect

from registry.errors import InvalidResource
from registry.model.authorization import PORT_PATTERN
from registry.model.duration import DURATION_PATTERN
from registry.model.fields import clip, field_path, show
from registry.model.gateway import HEADER_NAME_PATTERN, HOSTNAME_PATTERN, PRECISE_HOSTNAME_PATTERN
from registry.model.mesh import TRUST_DOMAIN_PATTERN
from registry.model.resource import NAME_PATTERN
from registry.model.unsupported import UNSUPPORTED_FIELDS, UNSUPPORTED_VALUES

_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d{1,9}|\.\.\.)\]")
_WORDS: Final = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "nothing",
}
_PATTERN_MENDS: Final = {
    NAME_PATTERN: "write lower-case letters, digits and dashes, at most 63, letters or digits at both ends",
    PORT_PATTERN: "write a port from 1 to 65535, in quotes",
    DURATION_PATTERN: "write hours, minutes, seconds and milliseconds, as in 500ms, 10s or 1h30m",
    HEADER_NAME_PATTERN: "write letters, digits and dashes",
    HOSTNAME_PATTERN: "write lower-case letters, digits, dashes and dots, at most 253; *. may stand before",
    PRECISE_HOSTNAME_PATTERN: "write lower-case letters, digits, dashes and dots, at most 253",
    TRUST_DOMAIN_PATTERN: "write lower-case letters, digits, dashes and underscores, single dots between",
}

Path = tuple[str | int, ...]


def explain_complaint(
    error: msgspec.ValidationError, *, cls: type[msgspec.Struct], document: object, where: str
) -> InvalidResource:
    """Put `error`, raised while `document` was converted to `cls`, into our words."""
    before, found, after = str(error).rpartition(" - at `")
    message, place = (before, after.rstrip("`")) if found else (after, "")
    path = _locate(place, cls, document)
    field = ""
    match message.split("`"):
        case ["Object contains unknown field ", *_]:
            # Whatever people call a field, backquotes included.
            field = message.removeprefix("Object contains unknown field `").removesuffix("`")
            reason, mend = _unknown_field(cls, path, field)
        case ["Object missing required field ", name, *_]:
            field = name
            reason, mend = "is missing", ""
        case ["Expected ", wanted, ", got ", got, _]:
            reason, mend = _wrong_type(wanted, got, _value_at(document, path))
        case ["Expected ", _, *bound]:
            # A pattern may hold backquotes.
            reason, mend = _out_of_bounds("`".join(bound).strip(), _value_at(document, path))
        case _ if message.startswith("Invalid enum value"):
            reason, mend = _unknown_value(cls, path, _value_at(document, path))
        case _:
            reason, mend = clip(message), ""
    text = ""
    for step in path:
        text = field_path(text, step)
    if field:
        text = field_path(text, field)
    return InvalidResource(where=where, path=text, reason=reason, mend=mend)


def nearest(word: str, known: list[str]) -> str:
    """Say which of the `known` words was probably meant, or name them all."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(known))}"


def _locate(place: str, cls: type[msgspec.Struct], document: object) -> Path:
    """Read msgspec's ``$.spec.ports[0]``; for ``[...]``, a value of a mapping, find which."""
    path: list[str | int] = []
    for name, index in _STEP.findall(place):
        if name:
            path.append(name)
        elif index != "...":
            path.append(int(index))
        else:
            mapping = _value_at(document, tuple(path))
            entries = mapping.items() if isinstance(mapping, dict) else ()
            path.extend([key for key, value in entries if _is_wrong(value, _type_at(cls, tuple(path)))][:1])
    return tuple(path)


def _is_wrong(value: object, declared: inspect.Type | None) -> bool:
    """Whether a value of a mapping, which holds text or structs, is what the complaint is about."""
    if not isinstance(declared, inspect.DictType) or not isinstance(declared.value_type, inspect.StructType):
        return not isinstance(value, str)
    try:
        msgspec.convert(value, declared.value_type.cls)
    except msgspec.ValidationError:
        return True
    return False


def _value_at(document: object, path: Path) -> object:
    value = document
    for step in path:
        match value, step:
            case dict(), str():
                value = value.get(step)
            case list(), int() if step < len(value):
                value = value[step]
            case _:
                return None
    return value


def _type_at(cls: type[msgspec.Struct], path: Path) -> inspect.Type | None:
    """Give the declared type at `path` of `cls`; the struct of an optional one."""
    found: inspect.Type | None = _required(inspect.type_info(cls))
    for step in path:
        match found:
            case inspect.StructType(fields=fields):
                found = next((_required(field.type) for field in fields if field.encode_name == step), None)
            case inspect.VarTupleType(item_type=item) | inspect.DictType(value_type=item):
                found = _required(item)
            case _:
                return None
    return found


def _required(declared: inspect.Type) -> inspect.Type:
    if isinstance(declared, inspect.UnionType):
        return next(member for member in declared.types if not isinstance(member, inspect.NoneType))
    return declared


def _unknown_field(cls: type[msgspec.Struct], path: Path, name: str) -> tuple[str, str]:
    match _type_at(cls, path):
        case inspect.StructType(cls=struct, fields=fields):
            mend = UNSUPPORTED_FIELDS.get(struct, {}).get(name)
            if mend is not None:
                return "is not supported", mend
            return "is not a known field", nearest(name, [field.encode_name for field in fields])
        case _:
            return "is not a known field", ""


def _wrong_type(wanted: str, got: str, value: object) -> tuple[str, str]:
    wants = wanted.split(" | ")
    shown = "" if value is None or isinstance(value, dict | list) else f" {show(value)}"
    reason = f"expected {_WORDS.get(wants[0], wants[0])}, got {_WORDS.get(got, got)}{shown}"
    match wants[0], value:
        case "str", bool() | int():
            return reason, f'put it in quotes: "{show(value)}"'
        case "str", float():
            return reason, "put it in quotes"
        case "int", str() if value.isdecimal():
            return reason, f"write it without quotes: {value}"
        case "array", str() | int():
            return reason, f"write a list: [{show(value)}]"
        case "bool", str():
            return reason, "write true or false, without quotes"
        case _, None:
            return reason, "write a value, or leave the field out"
        case _:
            return reason, ""


def _out_of_bounds(bound: str, value: object) -> tuple[str, str]:
    if bound.startswith("matching regex"):
        reason = f"{show(value)} is not well-formed"
        mends = (mend for pattern, mend in _PATTERN_MENDS.items() if repr(pattern) in bound)
        return reason, next(mends, bound.replace("matching regex", "it must match"))
    if bound == "of length >= 1":
        return "is empty", "write at least one, or leave the field out" if isinstance(value, list) else ""
    return f"{show(value)} is out of bounds", f"it must be {bound}"


def _unknown_value(cls: type[msgspec.Struct], path: Path, value: object) -> tuple[str, str]:
    match _type_at(cls, path):
        case inspect.EnumType(cls=choices):
            mend = UNSUPPORTED_VALUES.get(choices, {}).get(str(value))
            if mend is not None:
                return f"{value} is not supported", mend
            known = [str(choice.value) for choice in choices]
            return f"{show(value)} is not known", f"write one of {', '.join(known)}"
        case _:
            return f"{show(value)} is not known", ""

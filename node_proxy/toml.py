"""Reads a TOML file into a strict value; every complaint names file, field and mend."""

import difflib
import re
import tomllib
import typing
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from node_proxy.address import ListenAddress, SocketAddress
from node_proxy.errors import ConfigError


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of a configuration file."""


S = TypeVar("S", bound=Section)


def read_section(path: Path, kind: type[S]) -> S:
    """Read one TOML file into `kind`.

    Raises:
        ConfigError: unreadable, no TOML, or not of the shape.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(document, kind, dec_hook=_decode)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        field = place.rstrip("`").lstrip(".")
        raise wrong(path, field, reason + _mend(reason, kind, field)) from error


def _decode(kind: type, value: object) -> object:
    if kind in (SocketAddress, ListenAddress) and isinstance(value, str):
        return kind(value)
    raise TypeError(f"Expected text such as '127.0.0.1:15008', got {value!r}")


def _mend(reason: str, kind: type[Section], place: str) -> str:
    """Say what could be written where msgspec only says what is wrong."""
    if "matching regex" in reason and "/" in reason.partition("matching regex")[2]:
        return "; write namespace/name"
    if "matching regex" in reason:
        return "; write lower-case letters, digits and dashes"
    if missing := re.search(r"missing required field `(\w+)`", reason):
        return f"; add {missing[1]} = …"
    unknown = re.search(r"unknown field `(.+)`", reason)
    if not unknown:
        return ""
    section: Any = kind
    for part in re.findall(r"\w+|\[\.*\d*\]", place):
        if part.startswith("["):
            section = typing.get_args(section)[0]
        elif issubclass(section, Section):
            section = typing.get_type_hints(section)[part]
    known = section.__struct_fields__ if isinstance(section, type) and issubclass(section, Section) else ()
    if close := difflib.get_close_matches(unknown[1], known, n=1):
        return f"; did you mean {close[0]}?"
    return f"; remove it, or use one of: {', '.join(known)}" if known else "; remove it"


def wrong(path: Path, field: str, message: str) -> ConfigError:
    """Make the error that names file and field."""
    return ConfigError(f"{path}: {field}: {message}" if field else f"{path}: {message}")

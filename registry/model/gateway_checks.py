"""What parts that several kinds of routes and policies share may still get wrong by themselves. Pure.

Above all: matches that could never match, and changes to headers that are the proxies' own to write.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

from registry.model.duration import seconds
from registry.model.fields import clip, show
from registry.model.gateway import (
    BackendReference,
    HeaderMatch,
    HeaderModifier,
    MatchType,
    ParentReference,
    RequestMirror,
)
from registry.model.problem import Problem, repeated_problems
from registry.model.regex import InvalidRegex, compile_regex

CORE_GROUPS: Final = ("", "core")
# Gateway API's bound on the matches of all rules together.
MAX_MATCHES: Final = 128
# In seconds; who means longer means never, and leaves the field out or writes 0s.
LONGEST: Final = 24 * 3600.0

# RFC 9110 sections 5.5 and 5.6: visible characters, and spaces and tabs between them.
_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?\Z")
# RFC 9110 section 7.6.1 and RFC 9112: these are about one connection, or say where a message ends.
_OF_THE_CONNECTION: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# What proxies say to each other; they take it from no caller.
_OURS: Final = "nodemesh-"
# The one that callers may write.
_TIMEOUT: Final = "nodemesh-timeout"


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str:
        """Its name."""


def parent_problems(parents: Sequence[ParentReference]) -> Iterator[Problem]:
    """Find parents that no route can have."""
    seen: dict[tuple[str, str | None], list[tuple[int, int | None]]] = {}
    for i, parent in enumerate(parents):
        path = f"spec.parentRefs[{i}]"
        yield from _group_problems(parent.group, path)
        if parent.section_name is not None:
            yield Problem(f"{path}.sectionName", "is not supported", "write port, the number of the port")
        others = seen.setdefault((parent.name, parent.namespace), [])
        for j, port in others:
            if port == parent.port or None in (port, parent.port):
                yield Problem(
                    path,
                    f"is the Service of spec.parentRefs[{j}] again",
                    "keep one of them, or give each a port of its own",
                )
                break
        others.append((i, parent.port))


def hostname_problems(hostnames: Sequence[str]) -> Iterator[Problem]:
    """Find hosts that no request can name."""
    for i, hostname in enumerate(hostnames):
        path = f"spec.hostnames[{i}]"
        if any(len(label) > 63 for label in hostname.split(".")):
            yield Problem(path, "has a label of more than 63 characters")
        try:
            ipaddress.ip_address(hostname)
        except ValueError:
            continue
        yield Problem(path, f"{show(hostname)} is an address", "write a name, or leave hostnames out")
    yield from repeated_problems(hostnames, "spec.hostnames", "")


def backend_problems(backend: BackendReference, path: str, namespace: str) -> Iterator[Problem]:
    """Find backends that a route of `namespace` cannot lead to."""
    yield from _group_problems(backend.group, path)
    if backend.namespace not in (None, namespace):
        yield Problem(
            f"{path}.namespace",
            f"is another than the route's, {namespace}",
            "leave it out: a route leads to its own namespace, and there is no ReferenceGrant here",
        )


def mirror_problems(mirror: RequestMirror, path: str, namespace: str) -> Iterator[Problem]:
    """Find what is wrong with a mirror."""
    yield from backend_problems(mirror.backend_ref, f"{path}.backendRef", namespace)
    if mirror.percent is not None and mirror.fraction is not None:
        yield Problem(f"{path}.fraction", "stands beside percent", "keep one of them")
    if mirror.fraction is not None and mirror.fraction.numerator > mirror.fraction.denominator:
        yield Problem(f"{path}.fraction.numerator", "is more than the denominator")


def header_match_problems(headers: Sequence[HeaderMatch], path: str) -> Iterator[Problem]:
    """Find matches of headers that could never match."""
    for i, header in enumerate(headers):
        name = header.name.lower()
        if name == "host":
            yield Problem(f"{path}[{i}].name", "is the host of the request", "write hostnames instead")
        elif name in _OF_THE_CONNECTION:
            yield Problem(f"{path}[{i}].name", f"{name} is about one connection, and is not matched")
        elif name.startswith(_OURS) and name != _TIMEOUT:
            yield Problem(f"{path}[{i}].name", f"{name} is taken from no caller, so it would never match")
        yield from match_value_problems(header.type, header.value, f"{path}[{i}].value")
    yield from _repeated_names(headers, path)


def match_value_problems(kind: MatchType, value: str, path: str) -> Iterator[Problem]:
    """Find values that no header could have, and expressions that are none."""
    if kind is MatchType.REGULAR_EXPRESSION:
        yield from regex_problems(value, path)
    elif not _VALUE.match(value):
        yield Problem(
            path,
            f"{show(value)} is no header's value",
            "write visible characters of ASCII, no spaces around them",
        )


def regex_problems(text: str, path: str) -> Iterator[Problem]:
    """Find what is wrong with a regular expression."""
    try:
        compile_regex(text)
    except InvalidRegex as error:
        yield Problem(path, str(error), error.mend)


def modifier_problems(modifier: HeaderModifier, path: str) -> Iterator[Problem]:
    """Find changes to headers that cannot be made, or must not."""
    if modifier == HeaderModifier():
        yield Problem(path, "changes nothing", "write set, add or remove")
    for field, headers in (("set", modifier.set), ("add", modifier.add)):
        for i, header in enumerate(headers):
            yield from _changed_name(header.name, f"{path}.{field}[{i}].name")
            if not _VALUE.match(header.value):
                yield Problem(
                    f"{path}.{field}[{i}].value",
                    f"{show(header.value)} is no header's value",
                    "write visible characters of ASCII, no spaces around them",
                )
        yield from _repeated_names(headers, f"{path}.{field}")
    for i, name in enumerate(modifier.remove):
        yield from _changed_name(name, f"{path}.remove[{i}]")
    yield from repeated_problems([name.lower() for name in modifier.remove], f"{path}.remove", "")


def count_problems(matches: Iterable[int]) -> Iterator[Problem]:
    """Find rules with more matches together than a route may have."""
    if (total := sum(matches)) > MAX_MATCHES:
        yield Problem("spec.rules", f"have {total} matches, more than {MAX_MATCHES}", "write several routes")


def duration_problems(
    text: str | None, path: str, *, least: float = 0.001, most: float = LONGEST
) -> Iterator[Problem]:
    """Find a duration that is shorter or longer than makes sense; `least` and `most` are in seconds."""
    if text is None:
        return
    length = seconds(text)
    if length < least:
        yield Problem(path, f"{show(text)} is too short", f"write at least {_shown(least)}")
    elif length > most:
        yield Problem(path, f"{show(text)} is too long", f"write at most {_shown(most)}")


def _shown(length: float) -> str:
    if length < 1:
        return f"{length * 1000:g}ms"
    return f"{length / 3600:g}h" if length % 3600 == 0 else f"{length:g}s"


def _changed_name(name: str, path: str) -> Iterator[Problem]:
    lowered = name.lower()
    if lowered == "host":
        yield Problem(path, "is the host of the request", "write a URLRewrite filter with a hostname")
    elif lowered in _OF_THE_CONNECTION:
        yield Problem(path, f"{lowered} is the proxies' own to write: it is about one connection")
    elif lowered.startswith(_OURS):
        yield Problem(path, f"{lowered} is the proxies' own to write", f"write a name without {_OURS}")


def _repeated_names(headers: Sequence[Named], path: str) -> Iterator[Problem]:
    yield from repeated_problems([header.name.lower() for header in headers], path, "name")


def _group_problems(group: str, path: str) -> Iterator[Problem]:
    if group not in CORE_GROUPS:
        yield Problem(
            f"{path}.group", f"{clip(show(group))} has no Service of ours", 'write "", or leave it out'
        )

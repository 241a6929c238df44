"""Lengths of time as people write them on a command line: ``90s``, ``30m``, ``1h30m``, ``7d``.

Pure. The units and their order are those of Go and systemd, which operators' fingers know.
"""

import re

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_SHAPE = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?\Z", re.ASCII)


class InvalidDuration(ValueError):
    """Text that is no length of time; the message says what to write."""


def parse_duration(text: str) -> int:
    """Read a length of time; gives whole seconds, at least one.

    Raises:
        InvalidDuration: no unit, an unknown one, units out of order, or nothing left of it.
    """
    if text.isdecimal():
        raise InvalidDuration(f"{text!r} has no unit; write {text}s, {text}m or {text}h")
    found = _SHAPE.match(text)
    if not text or found is None:
        raise InvalidDuration(f"{text!r} is no length of time; write 90s, 30m, 1h30m or 7d")
    seconds = sum(
        int(count or 0) * _SECONDS[unit] for count, unit in zip(found.groups(), "dhms", strict=True)
    )
    if seconds == 0:
        raise InvalidDuration(f"{text!r} is no time at all; write at least 1s")
    return seconds


def render_duration(seconds: int) -> str:
    """Write a length of time with its two largest units, as in ``1h30m``; negative ones as ``0s``."""
    parts: list[str] = []
    rest = max(seconds, 0)
    for unit, size in _SECONDS.items():
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
        if len(parts) == 2:
            break
    return "".join(parts) or "0s"

"""Durations as Gateway API writes them: ``500ms``, ``10s``, ``1h30m``. Pure.

Source: GEP-2257, a subset of Go's: whole numbers of hours, minutes, seconds and milliseconds, at most five
digits each.
"""

import re
from typing import Annotated, Final

from msgspec import Meta

# `(?=.)`: at least one part; without it the empty text would pass.
DURATION_PATTERN = r"^(?=[0-9])([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?([0-9]{1,5}ms)?\Z"
Duration = Annotated[str, Meta(pattern=DURATION_PATTERN)]

_PARTS: Final = re.compile(r"([0-9]+)(h|ms|m|s)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def seconds(duration: str) -> float:
    """Give a duration, which must be well-formed, in seconds."""
    return sum(int(amount) * _SECONDS[unit] for amount, unit in _PARTS.findall(duration))

"""What has a count of its own under a limit: the service, each caller, each value of a header. Pure."""

from collections.abc import Mapping
from hashlib import blake2b

from registry.model.backend_policy import LimitKey, LimitKeyType

# Enough to tell the keys of one limit apart.
_KEY_BYTES = 8


def key_of(key: LimitKey, caller: str, headers: Mapping[str, str]) -> str:
    """Give the text that a request is counted under.

    Those without the header, or without an identity, count as one: nothing is gained by leaving it out.

    Args:
        key: what the limit goes by.
        caller: the proven identity; empty for none.
        headers: by names in lower case.
    """
    match key.type:
        case LimitKeyType.SERVICE:
            return ""
        case LimitKeyType.CALLER:
            return caller
        case LimitKeyType.HEADER:
            return headers.get((key.header or "").lower(), "")


def mesh_name(limit: str, key: str) -> str:
    """Name a count in what nodes tell each other: no value of a header is written there as it is.

    Args:
        limit: ``namespace/service/limit``.
        key: as `key_of` gives it; empty for what the whole service, or all without one, count under.
    """
    return f"{limit}#{blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=_KEY_BYTES).hexdigest()}"


def limit_of(name: str) -> str:
    """Give the limit of a `mesh_name`."""
    return name.partition("#")[0]

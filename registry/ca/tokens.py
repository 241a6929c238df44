"""Join tokens as text: ``nm1.<id>.<secret>.<fingerprint of the root>``.

Pure. The store keeps the secret's hash only, so that reading etcd does not let anyone join. A plain SHA-256
is enough for that: the secret has 256 random bits, there is nothing to guess.
"""

import hmac
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256

from registry.errors import InvalidResource, Unauthenticated

VERSION = "nm1"

_TEXT = re.compile(r"nm1\.([0-9a-f]{16})\.([A-Za-z0-9_-]{43})\.([0-9a-f]{64})\Z")
_PATTERN = re.compile(r"[a-z0-9*?\[\]!-]{1,63}\Z")
_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class TokenText:
    """A join token taken apart; `fingerprint` is for the joiner, who pins the registry's root by it."""

    id: str
    secret: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{VERSION}.{self.id}.{self.secret}.{self.fingerprint}"

    def __repr__(self) -> str:
        return f"TokenText(id={self.id!r})"


def parse_token(text: str) -> TokenText:
    """Read a join token.

    Raises:
        Unauthenticated: it is none.
    """
    if (match := _TEXT.match(text)) is None:
        raise Unauthenticated("this is no join token; make one with `meshctl node token create`")
    return TokenText(*match.groups())


def hash_secret(secret: str) -> str:
    """Give what the store keeps of a secret."""
    return sha256(secret.encode()).hexdigest()


def secret_fits(secret: str, expected_sha256: str) -> bool:
    """Whether `secret` has this hash, in constant time."""
    return hmac.compare_digest(hash_secret(secret).encode(), expected_sha256.encode())


def check_pattern(pattern: str) -> str:
    """Give a node pattern back if it is one.

    Raises:
        InvalidResource: it holds characters no node's name can match.
    """
    if not _PATTERN.match(pattern):
        raise InvalidResource(
            where="join token",
            path="node",
            reason=f"{pattern!r} is no node name or shell pattern",
            mend="write a name such as web-1 or a pattern such as 'web-*', in lower case",
        )
    return pattern


def covers(pattern: str, node: str) -> bool:
    """Whether a token for `pattern` is good for `node`."""
    return fnmatchcase(node, pattern)


def names_one_node(pattern: str) -> bool:
    """Whether a pattern is one node's plain name."""
    return _WILDCARDS.isdisjoint(pattern)

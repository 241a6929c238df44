"""The registry's errors.

::

    RegistryError
    ├── InvalidResource      a value that does not parse; says which field and how to mend it
    ├── StoreError
    │   ├── StoreUnavailable etcd cannot be reached or has no leader; try again
    │   └── StoreForbidden   etcd refuses our credentials; an operator must act
    ├── Conflict             somebody else changed it first, or the name is taken
    ├── Forbidden            the caller is known and may not do this
    ├── Unauthenticated      the caller is not known
    ├── NotFound
    ├── PayloadTooLarge      a request body over the limit
    └── ConfigError          the operator's configuration; says file and mend

Each carries an HTTP status; `registry.api.problems` turns them into RFC 9457 documents.
"""


class RegistryError(Exception):
    """Base of every error the registry raises on purpose."""

    status: int = 500
    title: str = "internal error"


class InvalidResource(RegistryError):
    """A resource that does not parse or contradicts itself.

    Args:
        where: the key, file or document the value came from.
        path: the field, as in ``spec.rules[0].to``; empty when the whole is meant.
        reason: what is wrong.
        mend: what to write instead; empty when nothing helpful is known.
    """

    status = 422
    title = "invalid resource"

    def __init__(self, *, where: str, path: str, reason: str, mend: str = "") -> None:
        self.where = where
        self.path = path
        self.reason = reason
        self.mend = mend
        super().__init__(self.describe())

    def describe(self) -> str:
        """Say where, what and how to mend it, in one line."""
        place = f"{self.where}: {self.path}" if self.path else self.where
        return f"{place}: {self.reason}" + (f"; {self.mend}" if self.mend else "")


class StoreError(RegistryError):
    """Base of what can go wrong between us and etcd."""


class StoreUnavailable(StoreError):
    """etcd cannot be reached, or has no leader; the call may be tried again."""

    status = 503
    title = "store unavailable"


class StoreForbidden(StoreError):
    """etcd answered and refused our credentials or our permissions."""

    status = 502
    title = "store refuses the registry's credentials"


class Conflict(RegistryError):
    """The value was changed by somebody else, or the name is taken."""

    status = 409
    title = "conflict"


class Forbidden(RegistryError):
    """The caller is known but may not do this."""

    status = 403
    title = "forbidden"


class Unauthenticated(RegistryError):
    """The caller has not shown who it is."""

    status = 401
    title = "unauthenticated"


class NotFound(RegistryError):
    """There is no such thing."""

    status = 404
    title = "not found"


class PayloadTooLarge(RegistryError):
    """The request's body is over the limit."""

    status = 413
    title = "payload too large"


class ConfigError(RegistryError):
    """The operator's configuration is wrong; the message says where and what to write."""

    status = 500
    title = "configuration error"

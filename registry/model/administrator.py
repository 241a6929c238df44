"""Administrator: who may use the registry's API."""

import enum
from typing import Annotated, ClassVar

from msgspec import Meta

from registry.model.resource import Resource, Strict


class Role(enum.Enum):
    """What an administrator may do: everything, or look at everything and change nothing."""

    ADMIN = "admin"
    VIEWER = "viewer"


class AdministratorSpec(Strict, frozen=True, kw_only=True):
    """`token_sha256` is the hexadecimal hash of the bearer token; the token itself is not kept.

    Who was written down before there were roles is an admin. A registry of that time cannot read a viewer's
    record and refuses it. `created_at` is RFC 3339 in UTC, empty where it was not noted.
    """

    token_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    role: Role = Role.ADMIN
    created_at: str = ""


class Administrator(Resource, frozen=True, kw_only=True):
    """A person or program that operates the mesh; at ``administrators/<name>``."""

    KIND: ClassVar[str] = "Administrator"
    PLURAL: ClassVar[str] = "administrators"

    spec: AdministratorSpec

"""Administrator: who may use the registry's API."""

from typing import Annotated, ClassVar

from msgspec import Meta

from registry.model.resource import Resource, Strict


class AdministratorSpec(Strict, frozen=True, kw_only=True):
    """`token_sha256` is the hexadecimal hash of the bearer token; the token itself is not kept."""

    token_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Administrator(Resource, frozen=True, kw_only=True):
    """A person or program that operates the mesh; at ``administrators/<name>``."""

    KIND: ClassVar[str] = "Administrator"
    PLURAL: ClassVar[str] = "administrators"

    spec: AdministratorSpec

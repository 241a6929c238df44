"""The envelope every resource has: apiVersion, kind, metadata, spec."""

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

NODEMESH = "nodemesh/v1"
DEFAULT_NAMESPACE = "default"
ROOT_NAMESPACE = "nodemesh-system"
DEFAULT_TRUST_DOMAIN = "nodemesh.local"

# RFC 1123 label, as Kubernetes names are. (`$` would let a trailing newline pass.)
NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z"
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Labels = dict[str, str]


class Strict(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    rename="camel",
):
    """A value in which an unknown field is an error and defaults are not written out."""


class Metadata(Strict, frozen=True, kw_only=True):
    """Who a resource is. `labels` select workloads; `annotations` are notes for people and tools."""

    name: Name
    namespace: Name = DEFAULT_NAMESPACE
    labels: Labels = {}
    annotations: dict[str, str] = {}


class Resource(Strict, frozen=True, kw_only=True, omit_defaults=False):
    """Base of the resources; each adds ``spec``.

    `api_version` and `kind` of the document are checked against API_VERSIONS and KIND. `signature` is what
    `registry.model.signature` makes; it is no part of what the resource says.
    PLURAL is the folder in etcd and the word in URLs and commands.
    """

    API_VERSIONS: ClassVar[tuple[str, ...]] = (NODEMESH,)
    KIND: ClassVar[str]
    PLURAL: ClassVar[str]

    api_version: str
    kind: str
    metadata: Metadata
    signature: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def name(self) -> str:
        """``namespace/name``: how people and reasons name a resource."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

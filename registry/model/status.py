"""Status: what the controller says of a resource an operator wrote."""

from typing import ClassVar

from registry.model.resource import Resource, Strict


class StatusSpec(Strict, frozen=True, kw_only=True):
    """`revision` is the resource's etcd revision that was judged; `vips` are for services of both kinds.

    `released_at`: when the resource was found deleted; the status stays while its `vips` are held back.
    """

    revision: int
    accepted: bool
    reasons: tuple[str, ...] = ()
    vips: tuple[str, ...] = ()
    released_at: str | None = None


class Status(Resource, frozen=True, kw_only=True):
    """Accepted or rejected with reasons, and the virtual IPs allocated; at ``status/<kind>/<ns>/<name>``."""

    KIND: ClassVar[str] = "Status"
    PLURAL: ClassVar[str] = "statuses"

    spec: StatusSpec

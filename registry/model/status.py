"""Status: what the controller says of a resource an operator wrote."""

from typing import ClassVar

from registry.model.resource import Resource, Strict


class StatusSpec(Strict, frozen=True, kw_only=True):
    """`revision` is the resource's etcd revision that was judged; `vips` are for Services only."""

    revision: int
    accepted: bool
    reasons: tuple[str, ...] = ()
    vips: tuple[str, ...] = ()


class Status(Resource, frozen=True, kw_only=True):
    """Accepted or rejected with reasons, and the virtual IPs allocated; at ``status/<kind>/<ns>/<name>``."""

    KIND: ClassVar[str] = "Status"
    PLURAL: ClassVar[str] = "statuses"

    spec: StatusSpec

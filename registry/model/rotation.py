"""Rotation: how far the change from one signing certificate to the next has come."""

import enum
from typing import Annotated, ClassVar

from msgspec import Meta

from registry.model.enrolment import Fingerprint, Timestamp
from registry.model.resource import Resource, Strict


class Phase(enum.Enum):
    """SPREADING: both roots are trusted, the old intermediate issues. MOVING: the new intermediate issues."""

    SPREADING = "spreading"
    MOVING = "moving"


class RotationSpec(Strict, frozen=True, kw_only=True):
    """`root` and `issuer` come in, by their certificates' fingerprints.

    `outgoing` are the roots that go; none if only the intermediate changes. `since` is when the phase began.
    `leaf_seconds` is how long a certificate from before it may still be valid.
    """

    phase: Phase
    started_at: Timestamp
    since: Timestamp
    root: Fingerprint
    issuer: Fingerprint
    leaf_seconds: Annotated[int, Meta(ge=1)]
    outgoing: tuple[Fingerprint, ...] = ()


class Rotation(Resource, frozen=True, kw_only=True):
    """A rotation under way; at ``ca/rotation``, and gone when it is done."""

    KIND: ClassVar[str] = "Rotation"
    PLURAL: ClassVar[str] = "rotations"

    spec: RotationSpec

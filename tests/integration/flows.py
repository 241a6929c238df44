"""Plans of random flows: what each end sends, when and how it ends, and the bytes themselves. No I/O."""

import enum
import random
from dataclasses import dataclass

KIBIBYTE = 1 << 10
MEBIBYTE = 1 << 20
# A size is drawn evenly up to one of these: from nothing at all to more than windows begin with.
SIZES = (0, 100, 64 * KIBIBYTE, MEBIBYTE, 4 * MEBIBYTE)
SIZE_WEIGHTS = (2, 4, 6, 6, 2)
# Chunks are drawn the same way; many of less than a byte a system call would only take long.
CHUNKS = (10, KIBIBYTE, 16 * KIBIBYTE, 256 * KIBIBYTE)
MOST_CHUNKS = 200
# How many flows of each kind there are.
RESET_SHARE = 0.3
PATIENT_SHARE = 0.5
PAUSING_SHARE = 0.3


class Role(enum.Enum):
    """The two ends of a flow."""

    CALLER = "caller"
    WORKLOAD = "workload"

    @property
    def other(self) -> "Role":
        """The other end."""
        return Role.WORKLOAD if self is Role.CALLER else Role.CALLER


@dataclass(frozen=True)
class Half:
    """What one end does: it sends `size` bytes of the material from `start`, then ends its direction.

    `chunk` is the most it sends at once. If `patient`, it first waits for the other's end. `resets_at` is how
    much it sends before it resets the connection instead. `pausing` is how likely it rests after a read.
    """

    start: int
    size: int
    chunk: int
    patient: bool
    resets_at: int | None
    pausing: float


@dataclass(frozen=True)
class Plan:
    """One flow, of two halves."""

    number: int
    halves: dict[Role, Half]

    @property
    def resetter(self) -> Role | None:
        """Who resets it, if anybody does."""
        return next((role for role, half in self.halves.items() if half.resets_at is not None), None)


class Material:
    """Random bytes, of which each half sends a piece of its own."""

    def __init__(self, rng: random.Random) -> None:
        self._bytes = memoryview(rng.randbytes(2 * max(SIZES)))

    def piece(self, half: Half) -> memoryview:
        """Give what a half sends when nothing breaks."""
        return self._bytes[half.start : half.start + half.size]


def draw_plans(rng: random.Random, count: int) -> list[Plan]:
    """Draw so many flows."""
    return [_draw_plan(rng, number) for number in range(count)]


def _draw_plan(rng: random.Random, number: int) -> Plan:
    resetter = rng.choice(list(Role)) if rng.random() < RESET_SHARE else None
    # Both would wait for ever.
    patient = rng.choice(list(Role)) if rng.random() < PATIENT_SHARE else None
    halves = {role: _draw_half(rng, patient=role is patient, resets=role is resetter) for role in Role}
    return Plan(number, halves)


def _draw_half(rng: random.Random, *, patient: bool, resets: bool) -> Half:
    (bound,) = rng.choices(SIZES, SIZE_WEIGHTS)
    size = rng.randint(0, bound)
    return Half(
        start=rng.randint(0, max(SIZES)),
        size=size,
        chunk=max(rng.choice(CHUNKS), size // MOST_CHUNKS),
        patient=patient,
        resets_at=rng.randint(0, size) if resets else None,
        pausing=rng.random() * 0.1 if rng.random() < PAUSING_SHARE else 0.0,
    )

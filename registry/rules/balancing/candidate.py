"""What balancing needs to know of an endpoint, and what is remembered of it. Pure."""

import math
from collections.abc import Hashable, Iterable
from typing import Protocol

Place = tuple[str, int]


class Candidate(Hashable, Protocol):
    """An endpoint of a service port. Weight 0 means drained."""

    @property
    def address(self) -> str:
        """Where it is; with the port what tells it from others."""

    @property
    def port(self) -> int:
        """The workload's port."""

    @property
    def healthy(self) -> bool:
        """What its node's health check last said."""

    @property
    def weight(self) -> int:
        """Its share of the requests, relative to the others'."""

    @property
    def region(self) -> str:
        """Where its node says it is; empty if it says nothing."""

    @property
    def zone(self) -> str:
        """The part of the region."""


class Record:
    """What one worker has found of an endpoint, by whatever name it is called.

    Attributes:
        in_flight: requests, or connections, that have not ended.
        latency: of `registry.rules.balancing.latency`, in seconds; negative before the first answer.
        measured: when it was.
        since: when the endpoint came, or became healthy again; minus infinity if it always was there.
        failures: in a row.
        ejected_until: 0 if it never was.
        ejections: of late; each is longer than the one before.
        answers, good: in the present interval, for success rates.
    """

    __slots__ = (
        "answers",
        "ejected_until",
        "ejections",
        "failures",
        "good",
        "in_flight",
        "latency",
        "measured",
        "since",
    )

    def __init__(self) -> None:
        self.in_flight = 0
        self.latency = -1.0
        self.measured = 0.0
        self.since = -math.inf
        self.failures = 0
        self.ejected_until = 0.0
        self.ejections = 0
        self.answers = 0
        self.good = 0


class Records:
    """The records of all endpoints of a worker; `version` changes when any of them is ejected or restored."""

    def __init__(self) -> None:
        self._records: dict[Place, Record] = {}
        self.version = 0

    def __len__(self) -> int:
        return len(self._records)

    def of(self, place: Place) -> Record:
        """Give the record of the endpoint at an address and port."""
        record = self._records.get(place)
        if record is None:
            record = self._records[place] = Record()
        return record

    def changed(self) -> None:
        """Let every group look anew at who may be used."""
        self.version += 1

    def in_flight(self) -> int:
        """Give the sum over all endpoints."""
        return sum(record.in_flight for record in self._records.values())

    def keep(self, places: Iterable[Place], *, now: float) -> None:
        """Forget all endpoints but these, and those that are still in use or ejected."""
        kept = set(places)
        self._records = {
            place: record
            for place, record in self._records.items()
            if place in kept or record.in_flight or record.ejected_until > now
        }

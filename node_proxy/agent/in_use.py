"""What the workers use of the credentials they were given; a rotation waits for that. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """Fingerprints: of the roots that peers are checked against, and of who issued what is presented."""

    roots: frozenset[str] = frozenset()
    issuers: frozenset[str] = frozenset()


class InUse:
    """Remembers each generation of credentials until no worker can use it any more."""

    def __init__(self) -> None:
        self._generation = 0
        self._given: dict[int, Standing] = {}

    def give(self, *, roots: Iterable[str], issuers: Iterable[str]) -> int:
        """Take note of new credentials; gives their generation."""
        self._generation += 1
        self._given[self._generation] = Standing(frozenset(roots), frozenset(issuers))
        return self._generation

    def by(self, generations: Iterable[int]) -> Standing:
        """Give what holds for workers that use these: the roots all trust, the issuers any presents."""
        used = {each for each in generations if each in self._given}
        if not used:
            return Standing()
        # A worker may be between any two of them, but never goes back.
        self._given = {number: each for number, each in self._given.items() if number >= min(used)}
        standings = [self._given[each] for each in used]
        return Standing(
            frozenset.intersection(*(each.roots for each in standings)),
            frozenset.union(*(each.issuers for each in standings)),
        )

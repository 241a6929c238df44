"""Where a watch stands, so that it can go on after any break: no event lost, none doubled. Pure.

One `Resume` outlives the streams of its watch. It takes what each stream answers and says what to do.

Three things about etcd decide its shape:

- A catch-up comes in batches whose header names the store's revision, not the last one in the batch.
  Only an event's own revision, or an answer without events, says how far the watch has come.
- The events of one revision may be cut into fragments. They are held until the revision is whole, and
  thrown away if the stream breaks before that.
- A delete at the very revision that was compacted is missing from the history of older releases
  (etcd#19179). So a stream begins at the last revision given, not at the one after it: if that one is
  compacted, etcd says so, and if it is not, everything above it is still there.
"""

from dataclasses import dataclass

from registry.store.base import Changed, Listing, Progress, Relisted, Removed, WatchEvent


@dataclass(frozen=True, slots=True)
class Answer:
    """One message of a watch stream; `revision` is the store's when it was sent."""

    revision: int
    events: tuple[Changed | Removed, ...] = ()
    created: bool = False
    canceled: bool = False
    compacted: int = 0
    fragment: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand these on, in order."""

    events: tuple[WatchEvent, ...]


@dataclass(frozen=True, slots=True)
class Relist:
    """The history is gone: list, give the listing to `Resume.relisted`, and open a new stream."""


@dataclass(frozen=True, slots=True)
class Verify:
    """The member is behind us: it lags, or the store was put back to an older state. List to find out."""


@dataclass(frozen=True, slots=True)
class Ended:
    """etcd ended the watch, for the `reason` it gives."""

    reason: str


Step = Deliver | Relist | Verify | Ended


def revision_of(event: Changed | Removed) -> int:
    """Give the revision at which an event happened."""
    return event.item.revision if isinstance(event, Changed) else event.revision


class Resume:
    """The position of one watch: everything up to `after` has been handed on."""

    def __init__(self, after: int) -> None:
        self._after = after
        self._held: list[Changed | Removed] = []

    @property
    def after(self) -> int:
        """The revision up to which everything has been given."""
        return self._after

    def open_stream(self) -> int:
        """Begin a new stream; gives the revision it must start at."""
        self._held.clear()
        # 0 would mean "from now on" to etcd; nothing is ever written at revision 1.
        return max(self._after, 1)

    def relisted(self, listing: Listing) -> Relisted:
        """Go on from a listing."""
        self._held.clear()
        self._after = listing.revision
        return Relisted(listing)

    def receive(self, answer: Answer) -> Step:
        """Take what the stream answered; say what to do about it."""
        if answer.compacted:
            return Relist()
        if answer.canceled:
            return Ended(answer.reason or "no reason given")
        if answer.created:
            if answer.revision < self._after:
                return Verify()
            return Deliver((Progress(self._after),))
        if answer.events:
            return self._receive_events(answer)
        self._after = max(self._after, answer.revision)
        return Deliver((Progress(self._after),))

    def _receive_events(self, answer: Answer) -> Deliver:
        self._held += (event for event in answer.events if revision_of(event) > self._after)
        if not self._held:
            return Deliver(())
        whole = len(self._held)
        if answer.fragment:
            last = revision_of(self._held[-1])
            whole = next(index for index, event in enumerate(self._held) if revision_of(event) == last)
        ready, self._held = self._held[:whole], self._held[whole:]
        if not ready:
            return Deliver(())
        self._after = revision_of(ready[-1])
        return Deliver((*ready, Progress(self._after)))

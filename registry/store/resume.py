"""Where a watch stands, so that it can go on after any break: no event lost, none doubled. Pure.

One `Resume` outlives the streams of its watch. It takes what each stream answers and says what to do.
`ResumeAll` does so for the watches that share a stream, one for each prefix.

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
    watch: int = 0


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


class ResumeAll:
    """The positions of several watches on one stream, numbered in the order they are opened.

    Each has a position of its own: a stream that catches up serves one watch after the other, and what one
    has been given says nothing about another.
    """

    def __init__(self, count: int, after: int) -> None:
        self._watches = tuple(Resume(after) for _ in range(count))
        self._opened: dict[int, Resume] = {}

    @property
    def after(self) -> int:
        """The revision up to which everything has been given, of every watch."""
        return min(watch.after for watch in self._watches)

    def open_stream(self) -> tuple[int, ...]:
        """Begin a new stream; gives the revision at which each watch must start."""
        self._opened.clear()
        return tuple(watch.open_stream() for watch in self._watches)

    def relisted(self, listing: Listing) -> Relisted:
        """Go on from a listing of everything."""
        for watch in self._watches:
            watch.relisted(listing)
        return Relisted(listing)

    def receive(self, answer: Answer) -> Step:
        """Take what the stream answered; say what to do about it."""
        if answer.created and not answer.canceled:
            # etcd answers in the order it was asked, and numbers the watches as it likes.
            self._opened[answer.watch] = self._watches[len(self._opened)]
        # One that was never opened is one that etcd refuses to open: whose it is makes no difference.
        step = self._opened.get(answer.watch, self._watches[0]).receive(answer)
        if not isinstance(step, Deliver):
            return step
        events = tuple(event for event in step.events if not isinstance(event, Progress))
        if len(self._opened) < len(self._watches) or not step.events:
            return Deliver(events)
        return Deliver((*events, Progress(self.after)))

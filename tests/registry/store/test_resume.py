"""A watch goes on after any break: whatever the streams do, no event is lost or doubled."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.store.base import Changed, KeyValue, Listing, Progress, Relisted, Removed
from registry.store.resume import Answer, Deliver, Ended, Relist, Resume, Verify, revision_of


def change(revision: int, key: str = "a") -> Changed:
    """Give a write at a revision."""
    return Changed(KeyValue(key, b"", revision, revision))


def delivered(step: object) -> tuple[object, ...]:
    """Give what a step hands on."""
    assert isinstance(step, Deliver)
    return step.events


class TestStreams:
    def test_created(self) -> None:
        """A stream that is open says where the watch stands, not where the store is."""
        resume = Resume(5)
        assert delivered(resume.receive(Answer(9, created=True))) == (Progress(5),)

    def test_starts_at_what_was_given_last(self) -> None:
        """A stream begins at the last revision given; what it repeats is left out."""
        resume = Resume(5)
        assert resume.open_stream() == 5
        assert delivered(resume.receive(Answer(6, (change(5), change(6))))) == (change(6), Progress(6))
        assert delivered(resume.receive(Answer(6, (change(6),)))) == ()

    def test_from_the_beginning(self) -> None:
        """After revision 0 means from the beginning, which etcd calls 1."""
        assert Resume(0).open_stream() == 1

    def test_batch_of_a_catch_up(self) -> None:
        """The header of a batch runs ahead of its events: the watch stands at the last event."""
        resume = Resume(5)
        assert delivered(resume.receive(Answer(1000, (change(6),)))) == (change(6), Progress(6))
        assert resume.open_stream() == 6

    def test_progress(self) -> None:
        """An answer without events says that there are none up to its revision."""
        resume = Resume(5)
        assert delivered(resume.receive(Answer(8))) == (Progress(8),)
        assert resume.open_stream() == 8

    def test_progress_never_goes_back(self) -> None:
        """A member that lags cannot move the watch back."""
        resume = Resume(5)
        assert delivered(resume.receive(Answer(3))) == (Progress(5),)

    def test_compacted(self) -> None:
        """A compacted history is listed, and the watch stands at the listing."""
        resume = Resume(5)
        assert resume.receive(Answer(0, canceled=True, compacted=8)) == Relist()
        listing = Listing((), 12)
        assert resume.relisted(listing) == Relisted(listing)
        assert resume.open_stream() == 12

    def test_canceled(self) -> None:
        """A watch that etcd ends says why."""
        assert Resume(5).receive(Answer(9, created=True, canceled=True, reason="denied")) == Ended("denied")

    def test_behind(self) -> None:
        """A store that knows less than the watch has seen is looked at."""
        assert Resume(5).receive(Answer(4, created=True)) == Verify()


class TestFragments:
    def test_held_until_whole(self) -> None:
        """The events of one revision are given when the last of them is there."""
        resume = Resume(5)
        assert delivered(resume.receive(Answer(6, (change(6, "a"),), fragment=True))) == ()
        assert delivered(resume.receive(Answer(6, (change(6, "b"),)))) == (
            change(6, "a"),
            change(6, "b"),
            Progress(6),
        )

    def test_whole_revisions_are_not_held(self) -> None:
        """Of a fragment only the last revision is held."""
        resume = Resume(5)
        step = resume.receive(Answer(7, (change(6), change(7, "a")), fragment=True))
        assert delivered(step) == (change(6), Progress(6))

    def test_thrown_away_with_the_stream(self) -> None:
        """Half a revision is forgotten when its stream breaks: the next stream gives all of it."""
        resume = Resume(5)
        resume.receive(Answer(6, (change(6, "a"),), fragment=True))
        assert resume.open_stream() == 5
        assert delivered(resume.receive(Answer(6, (change(6, "a"), change(6, "b"))))) == (
            change(6, "a"),
            change(6, "b"),
            Progress(6),
        )


@st.composite
def histories(draw: st.DrawFn) -> list[Changed | Removed]:
    """Give a history: revisions with one or more events, some revisions with none for this watch."""
    history: list[Changed | Removed] = []
    for revision in range(2, draw(st.integers(2, 15))):
        for number in range(draw(st.integers(0, 3))):
            key = f"k{number}"
            removed = draw(st.booleans())
            history.append(Removed(key, revision) if removed else change(revision, key))
    return history


def answers_from(history: list[Changed | Removed], start: int, data: st.DataObject) -> list[Answer]:
    """Cut what etcd would send from `start` on into answers and fragments, as etcd may."""
    head = revision_of(history[-1]) if history else start
    answers = [Answer(head, created=True)]
    rest = [event for event in history if revision_of(event) >= start]
    groups = [list(group) for _, group in itertools.groupby(rest, key=revision_of)]
    while groups:
        count = data.draw(st.integers(1, len(groups)))
        batch = [event for group in groups[:count] for event in group]
        groups = groups[count:]
        while batch:
            size = data.draw(st.integers(1, len(batch)))
            answers.append(Answer(head, tuple(batch[:size]), fragment=size < len(batch)))
            batch = batch[size:]
    return answers


@given(st.data())
def test_any_breaks(data: st.DataObject) -> None:
    """However a history is cut into answers and however often streams break, it is given once, in order."""
    history = data.draw(histories())
    after = data.draw(st.integers(0, 15))
    resume = Resume(after)
    given_events: list[object] = []
    told = after
    for last_stream in (False, False, False, True):
        answers = answers_from(history, resume.open_stream(), data)
        kept = len(answers) if last_stream else data.draw(st.integers(0, len(answers)))
        for answer in answers[:kept]:
            step = resume.receive(answer)
            if isinstance(step, Verify):
                continue
            for event in delivered(step):
                if isinstance(event, Progress):
                    told = event.revision
                else:
                    assert isinstance(event, Changed | Removed)
                    assert revision_of(event) > told
                    given_events.append(event)
    assert given_events == [event for event in history if revision_of(event) > after]


@pytest.mark.parametrize("event", [change(7), Removed("a", 7)])
def test_revision_of(event: Changed | Removed) -> None:
    """Every event has a revision."""
    assert revision_of(event) == 7

from registry.store.base import Changed, KeyValue, Listing, Progress
from registry.store.resume import Answer, Deliver, Ended, Relist, ResumeAll


def put(key: str, revision: int) -> Changed:
    return Changed(KeyValue(key, b"", revision, revision))


def opened(resume: ResumeAll, *watches: int, revision: int = 10) -> None:
    resume.open_stream()
    for watch in watches:
        resume.receive(Answer(revision, created=True, watch=watch))


def test_in_touch_when_all_are() -> None:
    """The stream is in touch once every one of its watches is."""
    resume = ResumeAll(2, 10)
    resume.open_stream()
    assert resume.receive(Answer(10, created=True, watch=0)) == Deliver(())
    assert resume.receive(Answer(10, created=True, watch=1)) == Deliver((Progress(10),))


def test_catch_up_one_after_the_other() -> None:
    """Older events of one watch are given after newer ones of another."""
    resume = ResumeAll(2, 10)
    opened(resume, 7, 9, revision=30)
    later, earlier = put("b", 30), put("a", 20)
    assert resume.receive(Answer(30, (later,), watch=9)) == Deliver((later, Progress(10)))
    assert resume.receive(Answer(30, (earlier,), watch=7)) == Deliver((earlier, Progress(20)))


def test_each_goes_on_where_it_was() -> None:
    """After a break each watch starts where it was itself."""
    resume = ResumeAll(2, 10)
    opened(resume, 0, 1)
    resume.receive(Answer(15, (put("b", 15),), watch=1))
    assert resume.open_stream() == (10, 15)


def test_refused() -> None:
    """A watch that etcd refuses to open ends the stream, with its reason."""
    resume = ResumeAll(2, 10)
    opened(resume, 0)
    refused = Answer(10, created=True, canceled=True, watch=-1, reason="permission denied")
    assert resume.receive(refused) == Ended("permission denied")


def test_listing_moves_all() -> None:
    """Where one watch's history is gone, all of them go on from the listing."""
    resume = ResumeAll(2, 10)
    opened(resume, 0, 1)
    assert resume.receive(Answer(50, canceled=True, compacted=40, watch=1)) == Relist()
    resume.relisted(Listing((), 50))
    assert resume.open_stream() == (50, 50)

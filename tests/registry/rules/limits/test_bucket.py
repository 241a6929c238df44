import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.rules.limits.bucket import Bucket

BUCKET = Bucket.of(10, per=2.0)


def drain(bucket: Bucket, full_at: float, now: float) -> tuple[int, float]:
    """Take tokens one by one until there are none; gives how many there were."""
    count = 0
    while (taken := bucket.take(full_at, now)).wait == 0.0:
        full_at = taken.full_at
        count += 1
    return count, full_at


def test_a_full_bucket_holds_its_burst() -> None:
    """All tokens can be taken at once, and not one more."""
    assert drain(BUCKET, 0.0, 1000.0)[0] == 10


def test_burst_of_its_own() -> None:
    """A burst beside the rate is what the bucket holds; the rate stays."""
    bucket = Bucket.of(10, per=2.0, burst=3)
    count, full_at = drain(bucket, 0.0, 1000.0)
    assert count == 3
    assert drain(bucket, full_at, 1000.0 + 0.4)[0] == 2


def test_tokens_come_evenly() -> None:
    """An empty bucket of 5 a second has one token after 0.2 s, and none before."""
    _, full_at = drain(BUCKET, 0.0, 1000.0)
    assert drain(BUCKET, full_at, 1000.19)[0] == 0
    assert drain(BUCKET, full_at, 1000.2)[0] == 1


def test_wait_is_exact() -> None:
    """Who waits as long as it is told gets its token."""
    _, full_at = drain(BUCKET, 0.0, 1000.0)
    refused = BUCKET.take(full_at, 1000.05)
    assert refused.wait == pytest.approx(0.15)
    assert refused.full_at == full_at
    assert BUCKET.take(full_at, 1000.05 + refused.wait).wait == 0.0


def test_given_back() -> None:
    """A token that is given back can be taken again, and only once."""
    _, full_at = drain(BUCKET, 0.0, 1000.0)
    assert drain(BUCKET, BUCKET.give_back(full_at), 1000.0)[0] == 1


def test_remaining_says_what_can_be_taken() -> None:
    """The tokens said to remain are those that can be taken."""
    taken = BUCKET.take(0.0, 1000.0)
    assert taken.remaining == 9
    assert drain(BUCKET, taken.full_at, 1000.0)[0] == 9


def test_a_small_share_still_lets_one_through() -> None:
    """However small a share is, there is a token now and then: depth never falls below one."""
    bucket = BUCKET.scaled(0.01)
    count, full_at = drain(bucket, 0.0, 1000.0)
    assert count == 1
    assert drain(bucket, full_at, 1000.0 + 19.9)[0] == 0
    assert drain(bucket, full_at, 1000.0 + 20.0)[0] == 1


@given(
    shares=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=6),
    gaps=st.lists(st.floats(0.0, 0.5), min_size=1, max_size=300),
)
def test_never_more_than_rate_and_burst(shares: list[float], gaps: list[float]) -> None:
    """Over any time no more passes than the burst and what came in, for every share of it."""
    for share in shares:
        bucket = BUCKET.scaled(share)
        now, full_at, passed = 1000.0, 0.0, 0
        for gap in gaps:
            now += gap
            taken = bucket.take(full_at, now)
            full_at = taken.full_at
            passed += taken.wait == 0.0
        assert passed <= bucket.depth / bucket.interval + (now - 1000.0) / bucket.interval + 1e-6

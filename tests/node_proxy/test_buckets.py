import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from node_proxy import buckets as module
from node_proxy.buckets import WAYS, Buckets
from registry.rules.limits.bucket import Bucket

SLOW = Bucket.of(10, per=1000.0)
# Takes from one bucket as fast as it can, and says how often it got something.
TAKER = """
import sys, time
from node_proxy.buckets import Buckets
from registry.rules.limits.bucket import Bucket
shared = Buckets(int(sys.argv[1]))
key, bucket = shared.key("limit"), Bucket.of(5000, per=1000.0)
print("ready", flush=True)
sys.stdin.read(1)
took = sum(shared.take(key, bucket, 1.0, named=True).wait == 0.0 for _ in range(10_000))
print(took, shared.unlocked)
"""


@pytest.fixture
def buckets() -> Iterator[Buckets]:
    """Give buckets as the agent makes them."""
    made = Buckets.make()
    yield made
    made.close()


def drain(buckets: Buckets, key: int, now: float, *, named: bool = True, bucket: Bucket = SLOW) -> int:
    """Take tokens until there are none; gives how many there were."""
    count = 0
    while (taken := buckets.take(key, bucket, now, named=named)) is not None and taken.wait == 0.0:
        count += 1
    return count


def test_keys_have_buckets_of_their_own(buckets: Buckets) -> None:
    """What is taken from one bucket is not missing in another."""
    assert [drain(buckets, buckets.key("limit", text), 1.0) for text in ("a", "b", "a")] == [10, 10, 0]


def test_another_worker_sees_it(buckets: Buckets) -> None:
    """A worker that inherits the descriptor finds the same keys at the same places."""
    inherited = Buckets(os.dup(buckets.fd or 0))
    assert drain(buckets, buckets.key("limit", "a"), 1.0) == 10
    assert drain(inherited, inherited.key("limit", "a"), 1.0) == 0
    inherited.close()


def test_exact_over_processes(buckets: Buckets) -> None:
    """Workers that take at the same moment get together what the bucket holds, not one token more or less."""
    command = [sys.executable, "-c", TAKER, str(buckets.fd)]
    takers = [
        subprocess.Popen(
            command, pass_fds=[buckets.fd or 0], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for each in takers:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in takers:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    answers = [[int(word) for word in each.communicate(timeout=30)[0].split()] for each in takers]
    assert [each.returncode for each in takers] == [0, 0, 0]
    took, unlocked = (sum(column) for column in zip(*answers, strict=True))
    assert abs(took - 5000) <= unlocked


def test_a_lock_that_is_held_stops_nobody(buckets: Buckets) -> None:
    """A worker that stands still with a lock in its hands holds up no other."""
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys; fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX);"
            "print('held', flush=True); sys.stdin.read()",
            str(buckets.fd),
        ],
        pass_fds=[buckets.fd or 0],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    began = time.monotonic()
    assert drain(buckets, buckets.key("limit"), 1.0) == 10
    assert time.monotonic() - began < 2.0
    assert buckets.unlocked == 11
    holder.communicate(timeout=30)
    assert drain(buckets, buckets.key("other"), 1.0) == 10
    assert buckets.unlocked == 11


def test_full_buckets_give_up_their_places(buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that has been quiet until its bucket was full again leaves room for others."""
    monkeypatch.setattr(module, "KEYED_SETS", 64)
    keys = [buckets.key("limit", str(number)) for number in range(64 * WAYS * 4)]
    now = 1.0
    for key in keys:
        # Each is full again in 100 s, in which 20 others come.
        now += 5.0
        taken = buckets.take(key, SLOW, now, named=False)
        assert taken is not None


def test_no_room_is_said(buckets: Buckets) -> None:
    """When all places of a key are in use, it gets none, and nobody else loses a place."""
    random_keys = random.Random(7)  # noqa: S311 - the same keys in every run
    first = random_keys.getrandbits(40) * module.KEYED_SETS
    keys = [first + number * module.KEYED_SETS for number in range(1, WAYS + 2)]
    assert [drain(buckets, key, 1.0, named=False) for key in keys] == [10] * WAYS + [0]
    assert buckets.take(keys[-1], SLOW, 1.0, named=False) is None
    assert [drain(buckets, key, 1.0, named=False) for key in keys[:-1]] == [0] * WAYS


def test_callers_cannot_fill_the_places_of_policies(buckets: Buckets) -> None:
    """Keys that callers make and keys that policies name have no places in common."""
    key = 3 * module.KEYED_SETS * module.NAMED_SETS
    for number in range(WAYS + 1):
        drain(buckets, key + number * module.KEYED_SETS, 1.0, named=False)
    assert drain(buckets, key, 1.0, named=True) == 10


def test_given_back(buckets: Buckets) -> None:
    """What is given back can be taken by any worker; of a bucket that is gone nothing is."""
    key = buckets.key("limit")
    drain(buckets, key, 1.0)
    buckets.give_back(key, SLOW, 2.0, named=True)
    buckets.give_back(buckets.key("never"), SLOW, 2.0, named=True)
    assert drain(buckets, key, 1.0) == 2
    assert drain(buckets, buckets.key("never"), 1.0) == 10


def test_draw(buckets: Buckets) -> None:
    """Drawing takes what is there, up to what is wanted, and nothing below the least."""
    key = buckets.key("bytes")
    assert buckets.draw(key, SLOW, 1.0, 7, 2, named=True) == (7, 0.0)
    assert buckets.draw(key, SLOW, 1.0, 7, 2, named=True) == (3, 0.0)
    count, wait = buckets.draw(key, SLOW, 1.0, 7, 2, named=True)
    assert count == 0
    assert wait == pytest.approx(200.0)
    assert buckets.draw(key, SLOW, 1.0 + wait, 7, 2, named=True) == (2, 0.0)


def test_keys_are_secret(buckets: Buckets) -> None:
    """Nobody can reckon which header values fall together: every node hashes in its own way."""
    other = Buckets(None)
    assert buckets.key("limit", "a") != other.key("limit", "a")
    other.close()


def test_parts_of_a_key_do_not_run_together(buckets: Buckets) -> None:
    """Stem and text are told apart wherever one ends and the other begins."""
    assert buckets.key("ab", "c") != buckets.key("a", "bc")

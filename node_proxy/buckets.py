"""Token buckets in memory that all workers of a node share, so that a limit is one, however many workers.

A bucket is one number (`registry.rules.limits.bucket`) at a place that its key leads to. The memory is of a
fixed size: a bucket that is full again gives up its place, since it is like one that never was.
"""

import fcntl
import mmap
import os
import secrets
import struct
from hashlib import blake2b
from typing import Final

from registry.rules.limits.bucket import Bucket, Taken

# Places that one key may be at; all are looked at, in one locked range of the memory.
WAYS: Final = 8
# Keys of callers and of headers' values that are counted at one time on a node, at 16 bytes each: 1 MiB.
KEYED_SETS: Final = 8192
# Keys that policies name: 32 limits each for hundreds of services. No caller can fill these.
NAMED_SETS: Final = 1024
# Keys whose places a worker has at hand, at some 100 bytes each.
REMEMBERED: Final = 4096
_SECRET: Final = 16
_HEADER: Final = 64
_SET: Final = WAYS * 16
_SIZE: Final = _HEADER + (NAMED_SETS + KEYED_SETS) * _SET
# A worker holds the lock for some microseconds, unless it is preempted in between; then the others try so
# often, giving way each time, and go on without: a limit that is off by one rather than a worker that stands.
_TRIES: Final = 64
_DIGEST: Final = struct.Struct("=Q")


class Buckets:
    """The buckets of all workers. The agent makes them, a worker opens the descriptor it inherits.

    The memory begins with a secret that keys are hashed with, so that nobody can choose header values that
    fall together. `unlocked` counts the times that a lock could not be had.

    Args:
        fd: of the memory; None is memory of this process alone.
    """

    def __init__(self, fd: int | None) -> None:
        self.fd = fd
        self.unlocked = 0
        self._memory = mmap.mmap(-1 if fd is None else fd, _SIZE)
        self._view = memoryview(self._memory)
        self._keys = self._view[_HEADER:].cast("Q")
        self._times = self._view[_HEADER:].cast("d")
        if fd is None:
            self._memory[:_SECRET] = secrets.token_bytes(_SECRET)
        self._secret = self._memory[:_SECRET]
        # Where keys were when they were last looked for: mostly they still are.
        self._places: dict[int, int] = {}

    @classmethod
    def make(cls) -> "Buckets":
        """Make buckets to be shared, all full."""
        fd = os.memfd_create("nodemesh-buckets", os.MFD_CLOEXEC)
        os.ftruncate(fd, _SIZE)
        os.pwrite(fd, secrets.token_bytes(_SECRET), 0)
        return cls(fd)

    def key(self, stem: str, text: str = "") -> int:
        """Give the number that stands here for what is counted as `text` under `stem`; never 0."""
        # The length keeps two pairs from being one text.
        whole = f"{len(stem)}:{stem}{text}".encode("utf-8", "surrogatepass")
        digest = blake2b(whole, digest_size=_DIGEST.size, key=self._secret).digest()
        number: int = _DIGEST.unpack(digest)[0]
        return number or 1

    def take(self, key: int, bucket: Bucket, now: float, tokens: float = 1.0, *, named: bool) -> Taken | None:
        """Take tokens from the bucket of `key`, all or none; None when there is no place for it.

        Args:
            key: as `key` gives it.
            bucket: how it fills.
            now: of the monotonic clock, which is the same for all processes.
            tokens: how many.
            named: whether a policy alone makes the key, rather than what callers send.
        """
        first = self._first(key, named)
        locked = self._lock(first)
        try:
            place = self._find(first, key, now)
            if place is None:
                return None
            full_at = self._times[place + WAYS] if self._keys[place] == key else 0.0
            taken = bucket.take(full_at, now, tokens)
            if taken.wait == 0.0:
                self._keys[place] = key
                self._times[place + WAYS] = taken.full_at
            return taken
        finally:
            if locked:
                self._unlock(first)

    def draw(
        self, key: int, bucket: Bucket, now: float, most: int, least: int, *, named: bool
    ) -> tuple[int, float]:
        """Take up to `most` tokens but no fewer than `least`, which the bucket must be able to hold.

        Gives how many, and if none, the seconds until `least` are there.
        """
        first = self._first(key, named)
        locked = self._lock(first)
        try:
            place = self._find(first, key, now)
            if place is None:
                return 0, bucket.depth
            full_at = self._times[place + WAYS] if self._keys[place] == key else 0.0
            there = bucket.remaining(full_at, now)
            if there < least:
                return 0, (least - there) * bucket.interval
            count = min(most, there)
            self._keys[place] = key
            self._times[place + WAYS] = max(full_at, now) + count * bucket.interval
            return count, 0.0
        finally:
            if locked:
                self._unlock(first)

    def give_back(self, key: int, bucket: Bucket, tokens: float = 1.0, *, named: bool) -> None:
        """Undo a `take`, or a part of it; harmless when the bucket has given up its place since."""
        first = self._first(key, named)
        locked = self._lock(first)
        try:
            keys = self._keys[first : first + WAYS].tolist()
            if key in keys:
                place = first + keys.index(key)
                self._times[place + WAYS] = bucket.give_back(self._times[place + WAYS], tokens)
        finally:
            if locked:
                self._unlock(first)

    def close(self) -> None:
        """Close the memory and the descriptor."""
        self._keys.release()
        self._times.release()
        self._view.release()
        self._memory.close()
        if self.fd is not None:
            os.close(self.fd)

    def _first(self, key: int, named: bool) -> int:
        """Give the index of the first place of a key's set."""
        number = key % NAMED_SETS if named else NAMED_SETS + key % KEYED_SETS
        return number * 2 * WAYS

    def _find(self, first: int, key: int, now: float) -> int | None:
        """Give the index of the key's place, or of one that it may have."""
        place = self._places.get(key)
        if place is not None and first <= place < first + WAYS and self._keys[place] == key:
            return place
        found = self._search(first, key, now)
        if found is not None:
            if len(self._places) >= REMEMBERED:
                self._places.clear()
            self._places[key] = found
        return found

    def _search(self, first: int, key: int, now: float) -> int | None:
        keys = self._keys[first : first + WAYS].tolist()
        if key in keys:
            return first + keys.index(key)
        for way, full_at in enumerate(self._times[first + WAYS : first + 2 * WAYS].tolist()):
            if full_at <= now:
                return first + way
        return None

    def _lock(self, first: int) -> bool:
        if self.fd is None:
            return False
        # A POSIX lock, which the kernel takes from a process that dies.
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, _SET, _HEADER + first * 8)
            except OSError:
                os.sched_yield()
            else:
                return True
        self.unlocked += 1
        return False

    def _unlock(self, first: int) -> None:
        if self.fd is not None:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, _SET, _HEADER + first * 8)

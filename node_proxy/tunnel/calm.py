"""How many control frames a peer may send for the work it does. Pure.

Floods of PING, SETTINGS, RST_STREAM (rapid reset), empty DATA or tiny WINDOW_UPDATE frames cost the
receiver more than the sender. Each such frame spends a token; each frame of payload, either way, of an
accepted stream, each CONNECT that was answered and each stream we asked for earn some back, and so does
time. A peer that runs out is told to calm down (ENHANCE_YOUR_CALM) and cut.
Source: CVE-2019-9512, -9514, -9515, -9518; CVE-2023-44487; RFC 9113 section 10.5.
"""

# A thousand streams opened and reset at once, with their window updates, must pass.
CAPACITY = 4_000.0
# Streams that carry nothing, such as port probes, live on this; working ones earn more than they spend.
REFILL_PER_SECOND = 500.0
# A peer may credit each frame of payload with a window update for the stream and one for the connection.
EARNED_BY_WORK = 2.0
# Reading compressed headers takes 0.3 ms a KiB; those of a CONNECT, tracing included, are shorter than this.
BYTES_PER_TOKEN = 1024


class Calm:
    """A token bucket; times are seconds of any monotonic clock."""

    def __init__(self, now: float) -> None:
        self._tokens = CAPACITY
        self._last = now

    def credit(self) -> None:
        """Earn tokens for a frame of payload, an answered CONNECT or one of our own."""
        self._tokens += EARNED_BY_WORK

    def spend(self, now: float, size: int = 0) -> bool:
        """Take the tokens of one control frame of `size` bytes; False when there are none left."""
        self._tokens = min(CAPACITY, self._tokens + (now - self._last) * REFILL_PER_SECOND)
        self._tokens -= 1 + size // BYTES_PER_TOKEN
        self._last = now
        return self._tokens >= 0

"""A service in simulated time, whose requests are balanced by the very rules of the proxy.

Requests come at random at a steady mean rate, whether or not those before have been answered. Each endpoint
serves a few at a time and lets the rest wait in line. Nothing here takes real time, and the same seed gives
the same run.
"""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from registry.model.backend_policy import LoadBalancing, OutlierEjection
from registry.rules.balancing.candidate import Record, Records
from registry.rules.balancing.group import Group
from registry.rules.balancing.keys import Keys
from registry.rules.balancing.outcome import Outcome
from registry.rules.balancing.settings import compile_settings

# Requests that an endpoint works on at once.
SLOTS: Final = 4
# How much service times vary: the standard deviation of their logarithm.
SPREAD: Final = 0.5
# Those who call, for policies that go by the caller.
CALLERS: Final = 500


@dataclass(frozen=True, slots=True)
class Host:
    """An endpoint and how it behaves: it takes `seconds` as a rule, and answers the share `failing` with 503.

    It does nothing between `stalls` and `stalls_until`.
    """

    address: str
    seconds: float = 0.01
    failing: float = 0.0
    stalls: float = 0.0
    stalls_until: float = 0.0
    port: int = 80
    healthy: bool = True
    weight: int = 100
    region: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """What callers do: `rate` requests a second for `seconds`; a try is given up after `per_try` seconds.

    A request is tried at so many more endpoints as `retries` says.
    """

    rate: float = 150.0
    seconds: float = 40.0
    per_try: float = 10.0
    retries: int = 0


@dataclass(slots=True)
class Request:
    """One request: when it came, by whom, where it was tried; and how long it took when it has ended."""

    began: float
    caller: bytes
    tried: list[Host] = field(default_factory=list)
    seconds: float = 0.0
    good: bool = False


@dataclass(slots=True, eq=False)
class _Try:
    request: Request
    host: Host
    began: float
    ended: bool = False


class Run:
    """One run; `requests` are those that have ended, `tries` how often each endpoint was asked."""

    def __init__(
        self,
        hosts: Sequence[Host],
        balancing: LoadBalancing,
        *,
        ejection: OutlierEjection = OutlierEjection(),  # noqa: B008 - immutable
        load: Load = Load(),
        seed: int = 1,
    ) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - the same run each time
        self._load = load
        self._records = Records()
        self._group = Group(tuple(hosts), self._records, compile_settings(balancing, ejection))
        self._now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._entries = 0
        self._busy: Counter[Host] = Counter()
        self._lines: dict[Host, deque[_Try]] = {host: deque() for host in hosts}
        self.tries: Counter[str] = Counter()
        self.requests: list[Request] = []
        self._arrive()
        while self._agenda:
            self._now, _, act = heapq.heappop(self._agenda)
            act()

    def share(self, address: str) -> float:
        """Give what part of all tries went to an endpoint."""
        return self.tries[address] / sum(self.tries.values())

    def failed(self) -> float:
        """Give what part of the requests had no good answer."""
        return sum(not request.good for request in self.requests) / len(self.requests)

    def quantile(self, part: float, *, since: float = 0.0, until: float = float("inf")) -> float:
        """Give the seconds within which this part of the requests ended that came in a time."""
        times = sorted(each.seconds for each in self.requests if since <= each.began < until)
        return times[min(int(part * len(times)), len(times) - 1)]

    def _at(self, when: float, act: Callable[[], None]) -> None:
        self._entries += 1
        heapq.heappush(self._agenda, (when, self._entries, act))

    def _arrive(self) -> None:
        caller = b"caller %d" % self._rng.randrange(CALLERS)
        self._try(Request(self._now, caller))
        following = self._now + self._rng.expovariate(self._load.rate)
        if following < self._load.seconds:
            self._at(following, self._arrive)

    def _try(self, request: Request) -> None:
        host = self._group.choose(
            now=self._now, rng=self._rng, tried=request.tried, keys=Keys(request.caller)
        )
        if host is None:
            self._end(request, good=False)
            return
        request.tried.append(host)
        self.tries[host.address] += 1
        self._record(host).in_flight += 1
        attempt = _Try(request, host, self._now)
        self._at(self._now + self._load.per_try, lambda: self._ended(attempt, Outcome.TIMEOUT))
        if self._busy[host] < SLOTS:
            self._serve(attempt)
        else:
            self._lines[host].append(attempt)

    def _serve(self, attempt: _Try) -> None:
        host = attempt.host
        self._busy[host] += 1
        begins = host.stalls_until if host.stalls <= self._now < host.stalls_until else self._now
        if self._rng.random() < host.failing:
            # To fail takes a tenth of the time, as a rule.
            takes, outcome = host.seconds / 10, Outcome.SERVER_ERROR
        else:
            takes, outcome = host.seconds * self._rng.lognormvariate(0, SPREAD), Outcome.SUCCESS
        self._at(begins + takes, lambda: self._served(attempt, outcome))

    def _served(self, attempt: _Try, outcome: Outcome) -> None:
        host = attempt.host
        self._busy[host] -= 1
        self._ended(attempt, outcome)
        line = self._lines[host]
        while line:
            following = line.popleft()
            if not following.ended:
                self._serve(following)
                break

    def _ended(self, attempt: _Try, outcome: Outcome) -> None:
        if attempt.ended:
            return
        attempt.ended = True
        record = self._record(attempt.host)
        record.in_flight -= 1
        self._group.ended(record, outcome, now=self._now, seconds=self._now - attempt.began)
        request = attempt.request
        if outcome.failed and len(request.tried) <= self._load.retries:
            self._try(request)
        else:
            self._end(request, good=not outcome.failed)

    def _end(self, request: Request, *, good: bool) -> None:
        request.seconds = self._now - request.began
        request.good = good
        self.requests.append(request)

    def _record(self, host: Host) -> Record:
        return self._records.of((host.address, host.port))

"""The requests that the load generator makes, read as they come."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

_BAR = 24


@dataclass(frozen=True)
class Request:
    """One request: when it began and ended (monotonic seconds), who answered, or what went wrong."""

    began: float
    ended: float
    by: str
    error: str

    @property
    def ok(self) -> bool:
        """Whether it was answered as it should be."""
        return not self.error


class Traffic:
    """All requests of one load generator so far."""

    def __init__(self, log: Path) -> None:
        self.requests: list[Request] = []
        self._log = log
        self._read = 0

    def refresh(self) -> None:
        """Take in what was written since the last time."""
        with self._log.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole, newline, _ = data.rpartition(b"\n")
        self._read += len(whole) + len(newline)
        for line in whole.splitlines():
            if line.startswith(b"{"):
                record = json.loads(line)
                error = record["error"] or ("" if record["status"] == 200 else f"status {record['status']}")
                by = "" if error else record["by"][0]
                self.requests.append(Request(record["began"], record["at"], by, error))

    def since(self, moment: float) -> list[Request]:
        """The requests that began at or after a moment, in the order in which they ended."""
        return [request for request in self.requests if request.began >= moment]

    def latest(self, seconds: float) -> list[Request]:
        """The requests that ended within the last `seconds`."""
        moment = time.monotonic() - seconds
        return [request for request in self.requests if request.ended >= moment]

    def line(self, since: float | None = None) -> Text:
        """Counts, and who answered: of the last second, or of all since a moment."""
        chosen = self.latest(1.0) if since is None else self.since(since)
        failed = sum(not request.ok for request in chosen)
        answered = Counter(request.by for request in chosen if request.ok)
        label = "last second" if since is None else "since then"
        text = Text.assemble((f"{label}: ", "dim"), f"{len(chosen) - failed} answered, ")
        text.append(f"{failed} failed", "red" if failed else "dim")
        for name, count in sorted(answered.items()):
            share = round(_BAR * count / len(chosen))
            text.append(f"   {name} ", "bold").append("█" * share, "green").append(f" {count}")
        return text

"""A stream's handler that remembers what it was told."""

from dataclasses import dataclass, field


@dataclass(eq=False)
class RecordingHandler:
    """Each call as a tuple: its name and arguments, payload copied."""

    heard: list[tuple[object, ...]] = field(default_factory=list)

    def on_accepted(self) -> None:
        """Remember."""
        self.heard.append(("accepted",))

    def on_refused(self, status: int, reason: str) -> None:
        """Remember."""
        self.heard.append(("refused", status, reason))

    def on_data(self, data: memoryview) -> None:
        """Remember."""
        self.heard.append(("data", bytes(data)))

    def on_ended(self) -> None:
        """Remember."""
        self.heard.append(("ended",))

    def on_reset(self, code: int) -> None:
        """Remember."""
        self.heard.append(("reset", code))

    def on_writable(self) -> None:
        """Remember."""
        self.heard.append(("writable",))

    @property
    def payload(self) -> bytes:
        """All payload so far."""
        return b"".join(call[1] for call in self.heard if call[0] == "data" and isinstance(call[1], bytes))

"""What the person at the terminal sees: steps, claims with their evidence, live traffic, a verdict."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from tests.demo.traffic import Traffic

# Live lines are drawn anew this often, a second.
_REFRESH = 10


class Report:
    """Prints as things happen and remembers every claim."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.failed: list[str] = []
        self.claims = 0

    def title(self, text: str) -> None:
        """Begin a part of the report."""
        self.console.print()
        self.console.rule(Text(text, "bold"), align="left", style="dim")

    def say(self, text: str) -> None:
        """Say what is about to happen, or what it means."""
        self._print(Text(text))

    def command(self, text: str, output: str = "") -> None:
        """Show a command as typed, and what it printed."""
        # Not folded, so that it can be copied.
        self.console.print(Text(f"    $ {text}", "cyan"), soft_wrap=True)
        if output.strip():
            self._print(Text(output.strip(), "dim"), indent=4)

    def document(self, text: str) -> None:
        """Show a YAML document."""
        self._print(Syntax(text.strip(), "yaml", background_color="default"), indent=4)

    def quote(self, text: str) -> None:
        """Show evidence word for word."""
        self._print(Text(text, "dim"), indent=4)

    def table(self, headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
        """Show rows below headers."""
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for header in headers:
            table.add_column(header, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self._print(table, indent=4)

    def claim(self, text: str, holds: bool, evidence: str) -> None:
        """State something and whether it was seen to be so."""
        self.claims += 1
        if not holds:
            self.failed.append(text)
        sign = Text("✓ ", "bold green") if holds else Text("✗ ", "bold red")
        self.console.print(Padding(Text.assemble(sign, (text, "bold"), "  ", (evidence, "dim")), (0, 2)))

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Show that something is under way, then how long it took."""
        began = time.monotonic()
        with self.console.status(text):
            yield
        took = time.monotonic() - began
        self._print(Text.assemble(("· ", "dim"), text, (f"  {took:.1f} s", "dim")))

    def watch(self, traffic: Traffic, until: Callable[[], bool], *, seconds: float) -> bool:
        """Show the traffic live until `until` holds; whether it did within `seconds`."""
        end = time.monotonic() + seconds
        with Live(console=self.console, refresh_per_second=_REFRESH, transient=True) as live:
            while True:
                traffic.refresh()
                live.update(Padding(traffic.line(), (0, 2)))
                if until():
                    break
                if time.monotonic() > end:
                    return False
                time.sleep(1 / _REFRESH / 4)
        return True

    def traffic(self, traffic: Traffic, since: float) -> None:
        """Leave the traffic's figures since a moment on the screen."""
        self._print(traffic.line(since))

    def _print(self, what: RenderableType, *, indent: int = 2) -> None:
        self.console.print(Padding(what, (0, 0, 0, indent), expand=False))

    def verdict(self, seconds: float) -> bool:
        """Close the report; whether every claim held."""
        self.title("Verdict")
        if self.failed:
            for text in self.failed:
                self._print(Text.assemble(("✗ ", "bold red"), text))
            self._print(Text(f"{len(self.failed)} of {self.claims} claims failed.", "bold red"))
        else:
            self._print(Text(f"All {self.claims} claims held, in {seconds:.0f} s.", "bold green"))
        return not self.failed

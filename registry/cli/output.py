"""How meshctl speaks: tables for people, JSON and YAML for programs, notes and errors on stderr.

What the registry says is printed as text, never as markup or terminal controls: a node writes
part of it, and a node must not paint an operator's screen.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import yaml
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from registry.cli.exits import Failure

# A column that folds needs this much to stay readable; with less, rows become blocks.
_MIN_FOLDED_WIDTH = 20
_GAP = "  "


class Format(enum.Enum):
    """What -o takes."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"

    @property
    def for_people(self) -> bool:
        """Whether a person reads it."""
        return self in {Format.TABLE, Format.WIDE}


class Tone(enum.Enum):
    """What a word means, as a colour."""

    PLAIN = ""
    GOOD = "green"
    BAD = "red"
    DOUBTFUL = "yellow"
    QUIET = "dim"


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's cell."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column: `wide` ones show with -o wide only, `folds` may break over lines."""

    header: str
    wide: bool = False
    folds: bool = False


def plain(text: str) -> str:
    """Make text safe for a terminal: line ends become spaces, other controls are spelled out."""
    return "".join(
        " " if char in "\r\n\t" else char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


class Printer:
    """Writes to two consoles: `out` for what was asked, `err` for everything about it."""

    def __init__(self, out: Console, err: Console) -> None:
        self._out = out
        self._err = err

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], *, wide: bool) -> None:
        """Print rows under headers; rows become blocks when the terminal is too narrow for the table."""
        kept = [index for index, column in enumerate(columns) if wide or not column.wide]
        shown = [columns[index] for index in kept]
        texts = [[_text(row[index]) for index in kept] for row in rows]
        widths = [
            max(cell_len(column.header), *(row[index].cell_len for row in texts), 0)
            for index, column in enumerate(shown)
        ]
        least = [
            min(width, _MIN_FOLDED_WIDTH) if column.folds else width
            for width, column in zip(widths, shown, strict=True)
        ]
        gaps = len(_GAP) * (len(shown) - 1)
        if wide or not self._out.is_terminal or sum(widths) + gaps <= self._out.width:
            self._lines(shown, texts, widths)
        elif sum(least) + gaps <= self._out.width:
            self._folded(shown, texts)
        else:
            self._blocks(shown, texts)

    def facts(self, facts: Sequence[tuple[str, Cell | str]]) -> None:
        """Print names and values below each other."""
        self._facts([(name, _text(value)) for name, value in facts])

    def _facts(self, facts: Sequence[tuple[str, Text]]) -> None:
        indent = max(len(name) for name, _ in facts) + 2
        for name, value in facts:
            self._line(self._out, Text.assemble((f"{name:<{indent}}", "bold"), value))

    def data(self, value: object, format_: Format) -> None:
        """Print a value as JSON or YAML, for programs."""
        builtin = msgspec.to_builtins(value)
        text = render_yaml(builtin) if format_ is Format.YAML else render_json(builtin)
        self.raw(text)

    def raw(self, text: str) -> None:
        """Print text that programs read, as it is."""
        self._out.file.write(text if text.endswith("\n") else f"{text}\n")

    def line(self, *words: Cell | str) -> None:
        """Print one line of an answer."""
        self._line(self._out, Text(" ").join(_text(word) for word in words))

    def note(self, text: str) -> None:
        """Say something beside the answer."""
        self._line(self._err, _text(text))

    def warn(self, text: str) -> None:
        """Say what should be mended soon."""
        self._line(self._err, Text.assemble(("warning: ", "yellow"), _text(text)))

    def fail(self, failure: Failure) -> None:
        """Say what went wrong, where, and how to mend it."""
        self._line(self._err, Text.assemble(("error: ", "bold red"), _text(failure.what)))
        for name, value in (("where", failure.where), ("mend", failure.mend)):
            if value:
                self._line(self._err, Text.assemble((f"  {name:<7}", "bold"), _text(value)))

    def _line(self, console: Console, text: Text) -> None:
        console.print(text, soft_wrap=True)

    def _lines(
        self, columns: Sequence[Column], rows: Sequence[Sequence[Text]], widths: Sequence[int]
    ) -> None:
        for row in ([Text(column.header, "bold") for column in columns], *rows):
            line = Text()
            for cell, width in zip(row, widths, strict=True):
                line.append_text(cell).append(" " * (width - cell.cell_len) + _GAP)
            line.rstrip()
            self._line(self._out, line)

    def _folded(self, columns: Sequence[Column], rows: Sequence[Sequence[Text]]) -> None:
        table = Table(box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0), header_style="bold")
        for column in columns:
            table.add_column(column.header, overflow="fold", no_wrap=not column.folds)
        for row in rows:
            table.add_row(*row)
        self._out.print(table)

    def _blocks(self, columns: Sequence[Column], rows: Sequence[Sequence[Text]]) -> None:
        for number, row in enumerate(rows):
            if number:
                self._line(self._out, Text())
            self._facts([(column.header, cell) for column, cell in zip(columns, row, strict=True)])


def _text(value: Cell | str) -> Text:
    cell = Cell(value) if isinstance(value, str) else value
    return Text(plain(cell.text), cell.tone.value)


def open_printer() -> Printer:
    """Give a printer on stdout and stderr; NO_COLOR and the terminal's abilities are respected by rich."""
    return Printer(
        Console(highlight=False, markup=False, emoji=False),
        Console(highlight=False, markup=False, emoji=False, stderr=True),
    )


def render_json(value: object) -> str:
    """Write a value as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def render_yaml(value: object) -> str:
    """Write a value as YAML in blocks, keys in their own order."""
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10**6)
    return text

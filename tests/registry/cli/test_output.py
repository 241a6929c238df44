import io
import json

import pytest
import yaml
from rich.console import Console

from registry.cli.output import Cell, Column, Format, Printer, Tone, plain

COLUMNS = (Column("NODE"), Column("IDENTITY", wide=True), Column("WHY", folds=True))
IDENTITY = "spiffe://nodemesh.local/ns/default/sa/an-account-with-a-rather-long-name"
ROWS = [("web-1", IDENTITY, "spec.rules[0]: no such port, and much more to say about it"), ("b", "-", "-")]


class Screen:
    """A printer on a terminal of a given width, or on a pipe (None)."""

    def __init__(self, width: int | None, *, colour: bool = False) -> None:
        self._file = io.StringIO()
        console = Console(
            file=self._file,
            width=width,
            force_terminal=width is not None,
            color_system="standard" if colour else None,
            markup=False,
            highlight=False,
            emoji=False,
        )
        self.printer = Printer(console, console)

    @property
    def text(self) -> str:
        """Everything printed so far."""
        return self._file.getvalue()

    @property
    def lines(self) -> list[str]:
        """Everything printed so far, by lines."""
        return self.text.splitlines()


def test_columns_align() -> None:
    """Every row's cells begin where their header does."""
    screen = Screen(120)
    screen.printer.table(COLUMNS, ROWS, wide=False)
    assert len({screen.lines[0].index("WHY"), screen.lines[1].index("spec"), screen.lines[2].index("-")}) == 1


def test_wide_columns_show_when_asked() -> None:
    """A wide column is there with -o wide and not without."""
    narrow, wide = Screen(None), Screen(None)
    narrow.printer.table(COLUMNS, ROWS, wide=False)
    wide.printer.table(COLUMNS, ROWS, wide=True)
    assert ("IDENTITY" in narrow.text, "IDENTITY" in wide.text) == (False, True)


@pytest.mark.parametrize("width", [30, 40, 60, 200, None])
def test_wide_cuts_no_identity(width: int | None) -> None:
    """With -o wide an identity is in one piece on any terminal."""
    screen = Screen(width)
    screen.printer.table(COLUMNS, ROWS, wide=True)
    assert IDENTITY in screen.text


@pytest.mark.parametrize("width", [35, 40, 60, 80])
def test_tables_fit_the_terminal(width: int) -> None:
    """No line of a table is wider than a terminal that can hold its rigid columns."""
    screen = Screen(width)
    screen.printer.table(COLUMNS, ROWS, wide=False)
    assert max(len(line.rstrip()) for line in screen.lines) <= width


def test_folding_loses_nothing() -> None:
    """A folded cell still has all its words."""
    screen = Screen(40)
    screen.printer.table(COLUMNS, ROWS, wide=False)
    folded = " ".join(" ".join(line[7:].split()) for line in screen.lines[1:4])
    assert folded.startswith(ROWS[0][2])


def test_rows_become_blocks_on_a_narrow_terminal() -> None:
    """Where no table fits, each row is names and values below each other."""
    screen = Screen(20)
    screen.printer.table(COLUMNS, ROWS, wide=False)
    assert screen.lines[0].split() == ["NODE", "web-1"]


def test_a_pipe_gets_one_line_for_each_row() -> None:
    """Nothing folds where grep and awk read."""
    screen = Screen(None)
    screen.printer.table(COLUMNS, ROWS, wide=True)
    assert len(screen.lines) == 1 + len(ROWS)


def test_brackets_are_text() -> None:
    """A field path such as spec.rules[0] is not taken for markup."""
    screen = Screen(None)
    screen.printer.line("[red]spec.rules[0][/red]")
    assert screen.text == "[red]spec.rules[0][/red]\n"


def test_controls_are_spelled_out() -> None:
    """What a node says cannot move the cursor, colour the screen or turn the direction of writing."""
    assert plain("a\x1b[31mb\x9bc\u202ed\x07") == "a\\x1b[31mb\\x9bc\\u202ed\\x07"


def test_line_ends_become_spaces() -> None:
    """A reason of several lines stays in its row."""
    assert plain("one\ntwo") == "one two"


def test_letters_of_every_script_stay() -> None:
    """Text is not reduced to ASCII."""
    assert plain("Größe 日本 →") == "Größe 日本 →"


def test_tones_are_colours() -> None:
    """A good word is green on a terminal that can."""
    screen = Screen(80, colour=True)
    screen.printer.line(Cell("live", Tone.GOOD))
    assert screen.text == "\x1b[32mlive\x1b[0m\n"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR set a terminal gets no colour."""
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen(80, colour=True)
    screen.printer.line(Cell("live", Tone.GOOD))
    assert screen.text == "live\n"


@pytest.mark.parametrize("value", [{"a": [1, {"b": None}], "80": "yes", "c": "Größe\nx"}, {"items": []}])
def test_json_and_yaml_say_the_same(value: dict[str, object]) -> None:
    """A program reads the same value from either."""
    as_json, as_yaml = Screen(20), Screen(20)
    as_json.printer.data(value, Format.JSON)
    as_yaml.printer.data(value, Format.YAML)
    assert json.loads(as_json.text) == yaml.safe_load(as_yaml.text) == value

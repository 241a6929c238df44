"""Log lines: for programs, and without secrets."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from registry.logs import StructlogHandler, configure_logging


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def stumble() -> None:
    secret = "open sesame"
    raise ValueError(f"with {len(secret)} letters")


def test_traceback_without_values(capsys: pytest.CaptureFixture[str]) -> None:
    """A logged exception tells where and why, and none of the values around it."""
    configure_logging("info")
    try:
        stumble()
    except ValueError:
        structlog.get_logger().exception("stumbled")
    written = capsys.readouterr().err
    entry = json.loads(written)
    assert entry["exception"][0]["exc_type"] == "ValueError"
    assert any(frame["name"] == "stumble" for frame in entry["exception"][0]["frames"])
    assert "sesame" not in written


def test_level(capsys: pytest.CaptureFixture[str]) -> None:
    """Below the level nothing is written."""
    configure_logging("warning")
    structlog.get_logger().info("idle talk")
    assert capsys.readouterr().err == ""


def test_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    """What a library logs comes out in the same shape."""
    configure_logging("info")
    record = logging.LogRecord("hypercorn.error", logging.WARNING, "", 1, "took %s", ("long",), None)
    StructlogHandler().emit(record)
    entry = json.loads(capsys.readouterr().err)
    assert (entry["event"], entry["level"]) == ("took long", "warning")

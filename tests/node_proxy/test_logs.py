import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from node_proxy.logs import configure_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    handlers, level = logging.getLogger().handlers, logging.getLogger().level
    yield io.StringIO()
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.getLogger().handlers = handlers
    logging.getLogger().setLevel(level)


def test_lines_are_json(stream: io.StringIO) -> None:
    """Every line is one JSON object with time, level and process, and debug is left out at info."""
    configure_logging("info", process="agent", stream=stream)
    log = structlog.get_logger()
    log.debug("hidden")
    log.info("shown", key="services/a/b")
    try:
        int("a\nb")
    except ValueError:
        log.exception("broken")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["level"], line["process"]) for line in lines] == [
        ("shown", "info", "agent"),
        ("broken", "error", "agent"),
    ]
    assert lines[0]["key"] == "services/a/b"
    assert "timestamp" in lines[0]
    assert "ValueError" in lines[1]["exception"]


def test_libraries_log_the_same_way(stream: io.StringIO) -> None:
    """What a library warns of by the standard library comes out as JSON too."""
    configure_logging("debug", process="agent", stream=stream)
    logging.getLogger("hypercorn.error").warning("odd %s", "thing")
    logging.getLogger("hypercorn.error").info("hidden")
    (line,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert line["event"] == "odd thing"
    assert line["level"] == "warning"

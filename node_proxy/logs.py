"""Log lines: JSON on stderr, one a line, for journald and for people with jq."""

import logging
import sys
from collections.abc import Callable
from typing import TextIO

import msgspec
import structlog


def configure_logging(level: str, *, process: str, stream: TextIO | None = None) -> None:
    """Let every logger write JSON lines of at least `level` to `stream` (stderr).

    Libraries that use the standard library's logging come out the same way, from warnings on.
    """
    target = stream or sys.stderr
    minimum = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *shared,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(minimum),
        # One write a line: workers share the stream, and print() would write the line end apart.
        logger_factory=structlog.WriteLoggerFactory(target),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(serializer=_to_json),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(minimum, logging.WARNING))


def _to_json(event: object, *, default: Callable[[object], object], **_: object) -> str:
    # A tenth of what the standard library's encoder takes; a busy worker writes thousands of lines a second.
    return msgspec.json.encode(event, enc_hook=default).decode()

"""How the registry's programs log: structlog, lines for people on a terminal and JSON elsewhere."""

import logging
import sys

import structlog

from registry.errors import ConfigError

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logging(level: str) -> None:
    """Set structlog up for this process, on stderr, from `level` upward.

    Raises:
        ConfigError: there is no such level.
    """
    if level not in LEVELS:
        raise ConfigError(f"--log-level {level!r}: write one of {', '.join(LEVELS)}")
    terminal = sys.stderr.isatty()
    # Tracebacks without the values of variables, among which are tokens and keys.
    for_people = (structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),)
    without_values = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    for_programs = (
        structlog.processors.ExceptionRenderer(without_values),
        structlog.processors.JSONRenderer(),
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(for_people if terminal else for_programs),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


class StructlogHandler(logging.Handler):
    """Passes on what a library logs with the standard library."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        log = structlog.get_logger(record.name)
        log.log(record.levelno, record.getMessage(), exc_info=record.exc_info)

"""How a command of nodemesh-registry runs: logging, trio, and what an operator can mend said in one line."""

from collections.abc import Awaitable, Callable
from functools import partial

import trio
import typer

from registry.errors import ConfigError, InvalidResource, RegistryError
from registry.logs import configure_logging


def run_command(work: Callable[[], Awaitable[None]], *, log_level: str) -> None:
    """Run a command; the exit code is 2 for what the operator can mend by other words, else 1."""
    fault: RegistryError | None = None
    try:
        configure_logging(log_level)
        trio.run(partial(work))
    except* RegistryError as group:
        fault = _first(group)
    if fault is not None:
        typer.echo(f"nodemesh-registry: {fault}", err=True)
        raise typer.Exit(2 if isinstance(fault, ConfigError | InvalidResource) else 1)


def _first(group: BaseExceptionGroup[RegistryError]) -> RegistryError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error

"""What the commands of nodemesh-proxy share: their options, and how a fault is said."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from node_proxy.errors import ConfigError, EnrolmentError
from registry import errors as registry_errors

# The operator's fault, as opposed to ours: the status that typer itself gives for a wrong option.
OPERATOR_FAULT = 2

ConfigOption = Annotated[Path, typer.Option("--config", help="This node's proxy.toml.")]
WorkloadsOption = Annotated[
    Path | None, typer.Option(help="Directory of workload files; default: that of the file.")
]


@contextmanager
def faults_in_one_line() -> Iterator[None]:
    """Turn what the operator has to mend into one line and the status for it."""
    try:
        yield
    except (ConfigError, EnrolmentError, registry_errors.ConfigError) as error:
        typer.echo(f"nodemesh-proxy: {error}", err=True)
        raise typer.Exit(OPERATOR_FAULT) from error

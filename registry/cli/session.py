"""What a command works with: settings, the registry's client, a printer and a clock.

Also how a function becomes a command: connection options on every one, errors as messages and exit codes.
"""

import contextlib
import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import httpx
import typer

from registry.cli.client import RegistryClient, connect
from registry.cli.config import Overrides, Settings, load_settings
from registry.cli.exits import ExitCode, explain
from registry.cli.output import Printer, open_printer
from registry.clock import Clock, utc_now
from registry.errors import RegistryError

P = ParamSpec("P")

_PANEL = "Connection"

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Configuration file (or $MESHCTL_CONFIG, or ~/.config/nodemesh/meshctl.toml).",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="The registry, as in https://mesh.example:15010 (or $MESHCTL_SERVER).",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        help="Administrator's token (or $MESHCTL_TOKEN, which other users of this host do not see in the "
        "process list).",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        help="PEM file of the CA to trust, instead of the configuration's ca_pem (or $MESHCTL_CA).",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What lies outside the process and can be exchanged: the way to the registry, and the clock."""

    connect: Callable[[Settings], httpx.Client] = connect
    now: Clock = utc_now


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """What the root command hands to the commands below it."""

    world: World
    overrides: Overrides


class Session:
    """One command's work; the registry is not spoken to, nor its settings read, before they are needed."""

    def __init__(self, *, world: World, overrides: Overrides, printer: Printer) -> None:
        self.now = world.now
        self.out = printer
        self._world = world
        self._overrides = overrides
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    @functools.cached_property
    def settings(self) -> Settings:
        """How to reach the registry; what is doubtful about it is said once."""
        settings = load_settings(self._overrides, environ=os.environ, home=Path.home())
        for warning in settings.warnings:
            self.out.warn(warning)
        return settings

    @functools.cached_property
    def registry(self) -> RegistryClient:
        """The registry, ready to be asked; closed with the session."""
        return RegistryClient(self._open.enter_context(self._world.connect(self.settings)))


def command(
    app: typer.Typer, name: str, *, examples: tuple[str, ...]
) -> Callable[[Callable[Concatenate[Session, P], ExitCode]], Callable[..., None]]:
    """Make a function a command of `app`; its parameters after the session are the command's own."""

    def register(function: Callable[Concatenate[Session, P], ExitCode]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(
            *args: Any,  # noqa: ANN401 - whatever the command's own signature says
            ctx: typer.Context,
            config: Path | None,
            server: str | None,
            token: str | None,
            ca: Path | None,
            **kwargs: Any,  # noqa: ANN401
        ) -> None:
            root: Root = ctx.obj
            said = Overrides(config=config, server=server, token=token, ca=ca)
            printer = open_printer()
            with Session(world=root.world, overrides=said.over(root.overrides), printer=printer) as session:
                try:
                    code = function(session, *args, **kwargs)
                except RegistryError as error:
                    failure = explain(error)
                    printer.fail(failure)
                    code = failure.code
            raise typer.Exit(code)

        # typer reads the command line's shape from the signature.
        run.__dict__["__signature__"] = _with_connection(inspect.signature(function, eval_str=True))
        app.command(name, epilog="Examples:\n\n" + "\n\n".join(f"    {line}" for line in examples))(run)
        return run

    return register


def _with_connection(signature: inspect.Signature) -> inspect.Signature:
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [parameter.replace(kind=keyword) for parameter in list(signature.parameters.values())[1:]]
    options = {"config": ConfigOption, "server": ServerOption, "token": TokenOption, "ca": CaOption}
    return inspect.Signature(
        [
            inspect.Parameter("ctx", keyword, annotation=typer.Context),
            *own,
            *(
                inspect.Parameter(name, keyword, annotation=option, default=None)
                for name, option in options.items()
            ),
        ]
    )

"""``meshctl``: the operators' command. It speaks to the registry's API and to nothing else."""

import importlib.metadata

import typer

from registry.cli import admin, apply, authz, ca, node, proxy, resources, route, service
from registry.cli.config import Overrides
from registry.cli.exits import EXIT_CODES_HELP
from registry.cli.options import OutputOption
from registry.cli.output import Format, open_printer
from registry.cli.session import CaOption, ConfigOption, Root, ServerOption, TokenOption, World

app = typer.Typer(
    name="meshctl",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog=EXIT_CODES_HELP,
    # A traceback with local variables would print the token.
    pretty_exceptions_show_locals=False,
)
for part in (apply.app, resources.app, admin.whoami_app):
    app.add_typer(part)
app.add_typer(service.app, name="service")
app.add_typer(node.app, name="node")
app.add_typer(proxy.app, name="proxy")
app.add_typer(ca.app, name="ca")
app.add_typer(route.app, name="route")
app.add_typer(authz.app, name="authz")
app.add_typer(admin.app, name="admin")


@app.callback()
def root(
    ctx: typer.Context,
    config: ConfigOption = None,
    server: ServerOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
) -> None:
    """Look at the mesh and change it, through the registry.

    Begin with `meshctl proxy status` and `meshctl service list`. The connection's options may stand before
    the command or after it; they win over the environment, which wins over the configuration file.
    """
    world = ctx.obj if isinstance(ctx.obj, World) else World()
    ctx.obj = Root(world=world, overrides=Overrides(config=config, server=server, token=token, ca=ca))


@app.command(epilog="Examples:\n\n    meshctl version")
def version(output: OutputOption = Format.TABLE) -> None:
    """Print meshctl's version; the registry is not asked."""
    found = importlib.metadata.version("nodemesh")
    printer = open_printer()
    if output.for_people or output is Format.NAME:
        printer.line(f"meshctl {found}")
    else:
        printer.data({"meshctl": found}, output)


def main() -> None:
    """Run meshctl on the process's command line."""
    app(prog_name="meshctl")

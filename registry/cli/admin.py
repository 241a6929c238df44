"""``meshctl admin``: who operates the mesh. And ``meshctl whoami``."""

from typing import Annotated

import msgspec
import typer

from registry.cli.answers import AdministratorView
from registry.cli.exits import ExitCode
from registry.cli.options import OutputOption
from registry.cli.output import Column, Format
from registry.cli.session import Session, command
from registry.model.administrator import Role

app = typer.Typer(no_args_is_help=True, help="Administrators of the mesh, and what each may do.")
whoami_app = typer.Typer()

_MAY = {
    Role.ADMIN: "may do everything, also make and remove administrators",
    Role.VIEWER: "may look at everything but the administrators, and change nothing",
}
_COLUMNS = (Column("NAME"), Column("ROLE"), Column("CREATED"))


class WhoAmI(msgspec.Struct, frozen=True, kw_only=True):
    """Whose token this is, and at which registry."""

    name: str
    role: str
    server: str


NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The administrator's name.", show_default=False)
]


@command(
    app,
    "create",
    examples=(
        "meshctl admin create dashboard",
        "meshctl admin create alice --role admin",
        "TOKEN=$(meshctl admin create auditor --role viewer 2>/dev/null)",
    ),
)
def create(
    session: Session,
    name: NameArgument,
    role: Annotated[
        Role, typer.Option(help="viewer may look at everything and change nothing; admin may do everything.")
    ] = Role.VIEWER,
    output: OutputOption = Format.TABLE,
) -> ExitCode:
    """Make an administrator.

    The token stands alone on standard output, this once: the registry keeps only its hash. To change a role,
    remove the administrator and make it anew.
    """
    made = session.registry.create_administrator(name, role=role.value)
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(made, output)
        case Format.NAME:
            session.out.line(made.name)
        case Format.TABLE | Format.WIDE:
            session.out.raw(made.token)
            session.out.note(f"{made.name} {_MAY[role]}. Hand the token over as you would a password.")
            session.out.note(
                "It goes into a copy of your meshctl.toml in the place of yours, or into $MESHCTL_TOKEN:"
            )
            session.out.note(f"  MESHCTL_TOKEN=TOKEN meshctl --server {session.settings.server} whoami")
    return ExitCode.OK


@command(app, "list", examples=("meshctl admin list", "meshctl admin list -o json"))
def list_administrators(session: Session, output: OutputOption = Format.TABLE) -> ExitCode:
    """List the administrators with their roles; an admin's to see."""
    seen = session.registry.list_administrators()
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(seen, output)
        case Format.NAME:
            for each in seen.items:
                session.out.line(each.name)
        case Format.TABLE | Format.WIDE:
            session.out.table(_COLUMNS, list(map(_row, seen.items)), wide=output is Format.WIDE)
            for remark in seen.remarks:
                session.out.warn(remark)
    return ExitCode.OK


@command(app, "remove", examples=("meshctl admin remove dashboard",))
def remove(session: Session, name: NameArgument, output: OutputOption = Format.TABLE) -> ExitCode:
    """Remove an administrator, whose token is refused from then on.

    Nobody removes themselves: an admin always remains.
    """
    removed = session.registry.remove_administrator(name)
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(removed, output)
        case Format.NAME:
            session.out.line(removed.name)
        case Format.TABLE | Format.WIDE:
            session.out.line(f"{removed.name} is no administrator any more")
    return ExitCode.OK


@command(whoami_app, "whoami", examples=("meshctl whoami", "meshctl whoami -o json"))
def whoami(session: Session, output: OutputOption = Format.TABLE) -> ExitCode:
    """Show whose token is used, its role, and at which registry."""
    seen = session.registry.whoami()
    me = WhoAmI(name=seen.name, role=seen.role, server=session.settings.server)
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(me, output)
        case Format.NAME:
            session.out.line(me.name)
        case Format.TABLE | Format.WIDE:
            session.out.facts([("Name", me.name), ("Role", me.role), ("Server", me.server)])
    return ExitCode.OK


def _row(administrator: AdministratorView) -> tuple[str, ...]:
    return administrator.name, administrator.role, administrator.created_at or "-"

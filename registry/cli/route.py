"""``meshctl route``: where requests go, and why; answered by the registry with the rules the proxies run."""

from typing import Annotated

import typer

from registry.cli.authz import CandidatesOption, read_candidates, read_headers, with_namespace
from registry.cli.authz_tables import NOBODY
from registry.cli.exits import ExitCode
from registry.cli.options import OutputOption
from registry.cli.output import Format
from registry.cli.route_tables import show_route
from registry.cli.session import Session, command

app = typer.Typer(no_args_is_help=True, help="Ask where requests go, and why; try routes before they hold.")


@command(
    app,
    "explain",
    examples=(
        "meshctl route explain --to api --path /orders",
        "meshctl route explain --to shop/api:8080 --path '/orders?page=2' --method POST --header x-canary=1",
        "meshctl route explain --to api --path / --from shop/web --host api.example",
        "meshctl route explain --to api:80 -f canary.yaml",
    ),
)
def explain(
    session: Session,
    destination: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="[NAMESPACE/]SERVICE[:PORT]",
            help="What is called; the port may be left out where there is one only.",
            show_default=False,
        ),
    ],
    path: Annotated[str, typer.Option(help="The request's path, perhaps with a query.")] = "/",
    method: Annotated[str, typer.Option(help="The request's method.")] = "GET",
    host: Annotated[
        str | None,
        typer.Option(help="The request's host; the service's name unless given.", show_default=False),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A header of the request; may be given several times.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="[NAMESPACE/]ACCOUNT",
            help="The caller: an account, a SPIFFE ID, or one without an identity.",
        ),
    ] = NOBODY,
    file: CandidatesOption = None,
    output: OutputOption = Format.TABLE,
) -> ExitCode:
    """Say which rule a request goes by, to which backends and endpoints, and why not by any other.

    Matches are shown in the order in which they are asked; the first that matches decides. Routes and
    policies are those stored, with the files laid over them.

    Exit code 0 when the request is answered as a route means it, 1 when it is not: no rule matches, or a
    backend has no endpoint, or there is no such service.
    """
    candidates = read_candidates(session, file)
    if candidates is None:
        return ExitCode.INVALID
    found = session.registry.route_explain(
        {
            "from": "" if source == NOBODY else with_namespace(source),
            "to": with_namespace(destination),
            "method": method,
            "path": path,
            "host": host or "",
            "headers": read_headers(header or ()),
            "candidates": candidates,
        }
    )
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(found, output)
        case Format.NAME:
            for backend in found.backends:
                session.out.line(f"{backend.service}:{backend.port}")
        case Format.TABLE | Format.WIDE:
            show_route(session, found, wide=output is Format.WIDE)
    return ExitCode.OK if found.well else ExitCode.NOT_WELL

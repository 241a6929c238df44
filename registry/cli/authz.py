"""``meshctl authz``: who may call whom, and why; answered by the registry with the rules the proxies run."""

from collections.abc import Sequence
from typing import Annotated

import typer

from registry.cli.apply import refuse
from registry.cli.authz_tables import (
    CHANGE_COLUMNS,
    FINDING_COLUMNS,
    NOBODY,
    change_row,
    finding_row,
    show_check,
    show_decision,
)
from registry.cli.exits import ExitCode
from registry.cli.options import FilesOption, OutputOption
from registry.cli.output import Format
from registry.cli.session import Session, command
from registry.cli.sources import Reading, read_sources
from registry.model.resource import DEFAULT_NAMESPACE

app = typer.Typer(no_args_is_help=True, help="Ask who may call whom, and why; try policies before they hold.")

CandidatesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE|DIR|-",
        help="Answer as if these resources were applied; nothing is stored. May be given several times.",
        show_default=False,
    ),
]


@command(
    app,
    "check",
    examples=(
        "meshctl authz check --from default/web --to default/api:8080",
        "meshctl authz check --from web --to api:80 --method GET --path /orders --header x-team=shop",
        "meshctl authz check --from none --to api:80 --source-ip 10.0.0.7",
        "meshctl authz check --from web --to api:80 -f candidate.yaml || echo 'would be denied'",
    ),
)
def check(
    session: Session,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="[NAMESPACE/]ACCOUNT",
            help=f"The caller: an account, a SPIFFE ID, or `{NOBODY}` for one without an identity.",
            show_default=False,
        ),
    ],
    destination: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="[NAMESPACE/]NAME:PORT",
            help="A service and its port, or a workload and its own.",
            show_default=False,
        ),
    ],
    method: Annotated[str | None, typer.Option(help="The request's method.", show_default=False)] = None,
    path: Annotated[str | None, typer.Option(help="The request's path.", show_default=False)] = None,
    host: Annotated[str | None, typer.Option(help="The request's host.", show_default=False)] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A header of the request; may be given several times.",
            show_default=False,
        ),
    ] = None,
    source_ip: Annotated[
        str | None,
        typer.Option("--source-ip", help="The address of the caller's host.", show_default=False),
    ] = None,
    file: CandidatesOption = None,
    output: OutputOption = Format.TABLE,
) -> ExitCode:
    """Say whether a call is allowed, which policy and rule decide, and why each other does not match.

    A service is answered for each workload behind it: the nodes may hold different rules while an edit does
    not parse. Policies, PeerAuthentications and settings are those stored, with the files laid over them.

    Exit code 0 when every workload permits the call, 7 when one denies it, 1 when there is no such
    destination.
    """
    candidates = read_candidates(session, file)
    if candidates is None:
        return ExitCode.INVALID
    found = session.registry.authz_check(
        {
            "from": "" if source == NOBODY else with_namespace(source),
            "to": with_namespace(destination),
            "method": method,
            "path": path,
            "host": host,
            "headers": read_headers(header or ()),
            "sourceIp": source_ip,
            "candidates": candidates,
        }
    )
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(found, output)
        case Format.NAME:
            for each in found.workloads:
                session.out.line(f"{each.node}/{each.workload}", each.outcome)
        case Format.TABLE | Format.WIDE:
            show_check(session, found, wide=output is Format.WIDE)
    if not found.workloads:
        return ExitCode.NOT_WELL
    return ExitCode.DENIED if any(each.denied for each in found.workloads) else ExitCode.OK


@command(
    app,
    "explain",
    examples=(
        "meshctl authz explain 5f0c21aa-1f",
        "meshctl authz explain 5f0c21aa-1f -o json",
    ),
)
def explain(
    session: Session,
    decision: Annotated[
        str,
        typer.Argument(
            metavar="DECISION-ID", help="From a log line, or from the nodemesh-reason header of a refusal."
        ),
    ],
    output: OutputOption = Format.TABLE,
) -> ExitCode:
    """Show a decision that a node took, and ask the present policies about the same call.

    Nodes remember the latest decisions of each kind; the logs have them all. Exit code 1 when no node
    remembers the decision; what it was does not change the code.
    """
    found = session.registry.authz_explain(decision)
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(found, output)
        case Format.NAME:
            for each in found.items:
                session.out.line(each.now.outcome if each.now else each.decision.outcome)
        case Format.TABLE | Format.WIDE:
            for number, each in enumerate(found.items):
                if number:
                    session.out.line()
                show_decision(session, each, wide=output is Format.WIDE)
            if len(found.items) > 1:
                session.out.warn(
                    "several nodes claim this decision; the log at its destination says whose it is"
                )
    return ExitCode.OK


@command(
    app,
    "diff",
    examples=(
        "meshctl authz diff -f new.yaml",
        "meshctl authz diff -f policies/ -o wide",
        "meshctl authz diff -f new.yaml && meshctl apply -f new.yaml",
    ),
)
def diff(session: Session, file: FilesOption, output: OutputOption = Format.TABLE) -> ExitCode:
    """Replay the calls that the nodes recorded lately as if these resources were applied; list what changes.

    Exit code 7 when a call that is permitted now would be denied. What was not called lately is not seen:
    `authz check` asks about one call.
    """
    candidates = read_candidates(session, file)
    if candidates is None:
        return ExitCode.INVALID
    found = session.registry.authz_diff(candidates)
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(found, output)
        case Format.NAME:
            for each in found.changes:
                session.out.line(each.destination, each.after.outcome)
        case Format.TABLE | Format.WIDE:
            skipped = f"; {found.skipped} cannot be asked any more" if found.skipped else ""
            session.out.note(f"Replayed {found.replayed} kinds of recorded calls{skipped}.")
            if found.changes:
                rows = [change_row(each) for each in found.changes]
                session.out.table(CHANGE_COLUMNS, rows, wide=output is Format.WIDE)
            else:
                session.out.line("Nothing would change for them.")
    lost = any(each.after.outcome != "permitted" for each in found.changes)
    return ExitCode.DENIED if lost else ExitCode.OK


@command(
    app,
    "lint",
    examples=(
        "meshctl authz lint",
        "meshctl authz lint -f new.yaml && meshctl apply -f new.yaml",
        "meshctl authz lint -o json",
    ),
)
def lint(session: Session, file: CandidatesOption = None, output: OutputOption = Format.TABLE) -> ExitCode:
    """Look for policies that are shadowed, unreachable, unenforceable, too wide, or about nobody.

    With -f only for what is about these resources, or comes from them. Exit code 1 when there is an error (a
    policy does not do what it says) or a warning (it is most likely not meant).
    """
    candidates = read_candidates(session, file)
    if candidates is None:
        return ExitCode.INVALID
    found = session.registry.authz_lint(candidates)
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(found, output)
        case Format.NAME:
            for each in found.findings:
                session.out.line(each.policy, each.check)
        case Format.TABLE | Format.WIDE:
            if found.findings:
                rows = [finding_row(each) for each in found.findings]
                session.out.table(FINDING_COLUMNS, rows, wide=output is Format.WIDE)
            else:
                session.out.line("Nothing found.")
    grave = any(each.severity != "info" for each in found.findings)
    return ExitCode.NOT_WELL if grave else ExitCode.OK


def read_candidates(session: Session, files: list[str] | None) -> Sequence[object] | None:
    """Read the files of -f; None when a document is invalid, which is said."""
    if not files:
        return ()
    reading: Reading = read_sources(files)
    if reading.invalid:
        refuse(session, reading)
        return None
    return [each.resource for each in reading.written]


def with_namespace(name: str) -> str:
    """Give ``namespace/name``; the namespace may have been left out."""
    return name if "/" in name else f"{DEFAULT_NAMESPACE}/{name}"


def read_headers(texts: Sequence[str]) -> dict[str, str]:
    """Read --header values.

    Raises:
        typer.BadParameter: one is no header.
    """
    headers = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is no header; write NAME=VALUE")
        headers[name] = value
    return headers

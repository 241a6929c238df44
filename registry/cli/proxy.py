"""``meshctl proxy``: what each node's proxy enforces, and what it refused to take."""

from datetime import datetime

import typer

from registry.cli.answers import NodeProxyView, ProxyStatus
from registry.cli.duration import render_duration
from registry.cli.exits import ExitCode
from registry.cli.options import OutputOption
from registry.cli.output import Cell, Column, Format, Tone
from registry.cli.session import Session, command
from registry.clock import parse_time

app = typer.Typer(no_args_is_help=True, help="See what the nodes' proxies enforce.")

# Certificates of a day are renewed at half their life; with this little left, renewals have been failing.
_CERTIFICATE_LOW_SECONDS = 6 * 3600

_NODE_COLUMNS = (
    Column("NODE"),
    Column("STATE", folds=True),
    Column("APPLIED"),
    Column("LAG"),
    Column("WORKERS"),
    Column("CERTIFICATE"),
    Column("REJECTED"),
    Column("FAULTS"),
)
_FAULT_COLUMNS = (
    Column("NODES"),
    Column("FAULT", folds=True),
)
_REJECTED_COLUMNS = (
    Column("NODE"),
    Column("REJECTED"),
    Column("IN FORCE"),
    Column("REASON", folds=True),
)


@command(
    app,
    "status",
    examples=(
        "meshctl proxy status",
        "meshctl proxy status -o json",
        "meshctl proxy status >/dev/null || page-someone",
    ),
)
def status(session: Session, output: OutputOption = Format.TABLE) -> ExitCode:
    """Show what each node's proxy has applied and what it rejected.

    APPLIED is the etcd revision a node enforces, LAG how far that is behind the newest edit or registration.
    Rejected resources come with the reason, and with the older revision that stays in force if there is one.
    FAULTS are errors that BackendPolicies have the proxies make on purpose.

    Exit code 1 when a node is down, has applied nothing, rejects a resource, or holds an expired certificate.
    """
    found = session.registry.proxy_status()
    now = session.now()
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(found, output)
        case Format.NAME:
            for node in found.items:
                session.out.line(node.node)
        case Format.TABLE | Format.WIDE:
            _show(session, found, now, wide=output is Format.WIDE)
    return ExitCode.NOT_WELL if any(ailments(node, now) for node in found.items) else ExitCode.OK


def ailments(node: NodeProxyView, now: datetime) -> tuple[str, ...]:
    """Say what is not well with a node's proxy; nothing when all is."""
    if not node.live:
        return ("down",)
    left = _seconds_left(node, now)
    found = (
        ("applied nothing yet", not node.applied_revision),
        ("certificate expired", left is not None and left <= 0),
        ("rejects resources", bool(node.rejected)),
    )
    return tuple(text for text, holds in found if holds)


def _show(session: Session, found: ProxyStatus, now: datetime, *, wide: bool) -> None:
    if not found.items:
        session.out.note("No node has joined; `meshctl node token create --help` says how to let one.")
        return
    session.out.note(f"Newest revision: {found.revision}")
    session.out.table(
        _NODE_COLUMNS, [_node_row(node, found.revision, now) for node in found.items], wide=wide
    )
    rejected = [
        (
            node.node,
            rejection.key,
            f"revision {rejection.last_good_revision}"
            if rejection.last_good_revision
            else Cell("nothing", Tone.BAD),
            rejection.reason,
        )
        for node in found.items
        for rejection in node.rejected
    ]
    if rejected:
        session.out.line()
        session.out.table(_REJECTED_COLUMNS, rejected, wide=wide)
    if faults := _faults(found):
        session.out.line()
        session.out.table(_FAULT_COLUMNS, faults, wide=wide)


def _faults(found: ProxyStatus) -> list[tuple[str, str]]:
    """Give each fault once: it is on at every node that hears of the policy."""
    makers: dict[str, list[str]] = {}
    for node in found.items:
        for fault in node.faults:
            makers.setdefault(fault, []).append(node.node)
    return [
        ("all" if len(nodes) == len(found.items) > 1 else ", ".join(nodes), fault)
        for fault, nodes in makers.items()
    ]


def _node_row(node: NodeProxyView, head: int, now: datetime) -> tuple[Cell | str, ...]:
    wrong = ailments(node, now)
    applied = node.applied_revision
    return (
        node.node,
        Cell("; ".join(wrong), Tone.BAD) if wrong else Cell("well", Tone.GOOD),
        str(applied) if applied else "-",
        str(max(head - applied, 0)) if applied else "-",
        "-" if node.workers is None else str(node.workers),
        _certificate(node, now),
        Cell(str(len(node.rejected)), Tone.BAD) if node.rejected else "0",
        Cell(str(len(node.faults)), Tone.DOUBTFUL) if node.faults else "0",
    )


def _certificate(node: NodeProxyView, now: datetime) -> Cell:
    left = _seconds_left(node, now)
    if left is None:
        return Cell("-")
    if left <= 0:
        return Cell("expired", Tone.BAD)
    return Cell(
        f"{render_duration(left)} left", Tone.DOUBTFUL if left < _CERTIFICATE_LOW_SECONDS else Tone.PLAIN
    )


def _seconds_left(node: NodeProxyView, now: datetime) -> int | None:
    if not node.certificate_expires:
        return None
    try:
        expires = parse_time(node.certificate_expires)
    except ValueError:
        return None
    return int((expires - now).total_seconds())

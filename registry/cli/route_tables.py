"""How the answers about routes look to people."""

from registry.cli.node import short_identity
from registry.cli.output import Cell, Column, Tone
from registry.cli.route_answers import BackendView, RouteExplainView, RouteMatchView
from registry.cli.session import Session

_BACKEND_COLUMNS = (
    Column("BACKEND"),
    Column("SHARE"),
    Column("BALANCING"),
    Column("POLICY"),
    Column("ENDPOINTS"),
    Column("CHANGES", folds=True),
)
_ENDPOINT_COLUMNS = (
    Column("BACKEND"),
    Column("NODE"),
    Column("WORKLOAD"),
    Column("ADDRESS"),
    Column("HEALTH", wide=True),
    Column("TAKES TRAFFIC", folds=True),
)
_MATCH_COLUMNS = (
    Column("ROUTE"),
    Column("KIND", wide=True),
    Column("RULE"),
    Column("MATCH"),
    Column("MATCHES"),
    Column("WHY", folds=True),
)


def show_route(session: Session, found: RouteExplainView, *, wide: bool) -> None:
    """Print where a request goes, and what each match says, in the order in which they are asked."""
    caller = short_identity(found.source) if found.source else "without an identity"
    session.out.note(f"Revision {found.revision}, caller {caller}.")
    session.out.facts(_facts(found))
    if found.backends:
        session.out.line()
        session.out.table(_BACKEND_COLUMNS, [_backend_row(each) for each in found.backends], wide=wide)
        rows = [row for backend in found.backends for row in _endpoint_rows(backend)]
        if rows:
            session.out.line()
            session.out.table(_ENDPOINT_COLUMNS, rows, wide=wide)
    if found.matches:
        session.out.line()
        session.out.table(_MATCH_COLUMNS, [_match_row(each) for each in found.matches], wide=wide)
    for remark in found.remarks:
        session.out.note(f"note: {remark}")


def _facts(found: RouteExplainView) -> list[tuple[str, Cell | str]]:
    facts: list[tuple[str, Cell | str]] = [
        ("To", f"{found.service}:{found.port} ({found.protocol})"),
        ("Decided by", found.because),
    ]
    if found.status:
        tone = Tone.GOOD if found.status < 400 else Tone.BAD
        facts.append(("Answer", Cell(f"{found.status}, by the caller's proxy", tone)))
    if found.location:
        facts.append(("Location", found.location))
    if found.target:
        facts.append(("Asked for", f"{found.target} of {found.authority}"))
    facts += [("Rule" if not i else "", text) for i, text in enumerate(found.does)]
    return facts


def _backend_row(backend: BackendView) -> tuple[Cell | str, ...]:
    known = len(backend.endpoints)
    endpoints = Cell(f"{backend.usable}/{known}", Tone.GOOD if backend.usable else Tone.BAD)
    return (
        f"{backend.service}:{backend.port}",
        f"{backend.share * 100:.4g} %",
        backend.balancing,
        backend.policy or "-",
        endpoints if backend.known else Cell("not known: 500", Tone.BAD),
        "; ".join(backend.does) or "-",
    )


def _endpoint_rows(backend: BackendView) -> list[tuple[Cell | str, ...]]:
    return [
        (
            f"{backend.service}:{backend.port}",
            each.node,
            each.workload,
            f"[{each.address}]:{each.port}" if ":" in each.address else f"{each.address}:{each.port}",
            each.health,
            Cell("yes", Tone.GOOD) if each.usable else Cell(f"no: {each.why or 'no reason given'}", Tone.BAD),
        )
        for each in backend.endpoints
    ]


def _match_row(said: RouteMatchView) -> tuple[Cell | str, ...]:
    if said.chosen:
        verdict = Cell("first", Tone.GOOD)
    else:
        verdict = Cell("later") if said.matched else Cell("no", Tone.QUIET)
    return (
        said.route,
        said.kind,
        f"{said.rule} {said.name}".rstrip(),
        str(said.match),
        verdict,
        _why(said),
    )


def _why(said: RouteMatchView) -> str:
    if said.matched:
        return ", ".join(said.because) or "it asks for nothing"
    return "; ".join(f"{miss.field} wants {miss.wanted}, has {miss.found}" for miss in said.misses)

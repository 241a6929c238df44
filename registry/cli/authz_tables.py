"""How the answers about authorization look to people."""

from registry.cli.authz_answers import (
    ChangeView,
    CheckView,
    ExplainedView,
    FindingView,
    PolicyView,
    VerdictView,
)
from registry.cli.node import short_identity
from registry.cli.output import Cell, Column, Tone
from registry.cli.session import Session

# Stands for a caller that has no identity, here and in --from.
NOBODY = "none"

_WORKLOAD_COLUMNS = (
    Column("NODE"),
    Column("WORKLOAD"),
    Column("VERDICT"),
    Column("DECIDED BY"),
    Column("WHY", folds=True),
)
_POLICY_COLUMNS = (
    Column("POLICY"),
    Column("ACTION"),
    Column("MATCHES"),
    Column("WHY", folds=True),
)
CHANGE_COLUMNS = (
    Column("CALLS"),
    Column("FROM"),
    Column("TO"),
    Column("NODE", wide=True),
    Column("NOW"),
    Column("THEN"),
    Column("WHY", folds=True),
    Column("LAST SEEN", wide=True),
)
FINDING_COLUMNS = (
    Column("SEVERITY"),
    Column("CHECK"),
    Column("POLICY"),
    Column("KIND", wide=True),
    Column("FIELD"),
    Column("WHAT", folds=True),
    Column("MEND", folds=True),
)
_SEVERITIES = {"error": Tone.BAD, "warning": Tone.DOUBTFUL}


def show_check(session: Session, found: CheckView, *, wide: bool) -> None:
    """Print the answers for all workloads, and what each policy says."""
    session.out.note(f"Revision {found.revision}, caller {found.source or 'without an identity'}.")
    if not found.workloads:
        session.out.line(f"No workload is behind {found.service} now.")
        return
    session.out.table(_WORKLOAD_COLUMNS, [_workload_row(each) for each in found.workloads], wide=wide)
    shown: list[VerdictView] = []
    for each in found.workloads:
        if not any(_same_rules(each, other) for other in shown):
            shown.append(each)
    for each in shown:
        session.out.line()
        if len(shown) > 1:
            session.out.line(f"At {each.node}:")
        _show_rules(session, each, wide=wide)
    for each in found.workloads:
        for remark in each.remarks:
            session.out.warn(f"{each.workload} at {each.node}: {remark}")


def _same_rules(one: VerdictView, other: VerdictView) -> bool:
    return (one.policies, one.identity) == (other.policies, other.identity)


def _show_rules(session: Session, verdict: VerdictView, *, wide: bool) -> None:
    identity = verdict.identity
    by = f"{identity.path} of {identity.policy or 'the mesh'}"
    session.out.line(
        f"Identity: {'required' if identity.required else 'not required'} by {by};",
        "the caller has one." if identity.authenticated else "the caller has none.",
    )
    if not verdict.policies:
        session.out.line("No policy selects this workload.")
        return
    rows = [
        (
            each.policy,
            each.action + (" (dry run)" if each.dry_run else ""),
            Cell(f"rule {each.rule}", Tone.GOOD) if each.matched else Cell("no", Tone.QUIET),
            _why(each),
        )
        for each in verdict.policies
    ]
    session.out.table(_POLICY_COLUMNS, rows, wide=wide)


def _why(said: PolicyView) -> str:
    """Say why a policy matches, or for each of its rules what is in the way."""
    parts = []
    for rule in said.rules:
        if said.matched and rule.number == said.rule:
            parts = [", ".join(rule.because) or f"spec.rules[{rule.number}] has no conditions"]
            if rule.unread:
                parts.append(f"not read, taken as matching: {', '.join(rule.unread)}")
            break
        parts += [
            f"{miss.path} wants {' or '.join(miss.values) or 'nothing'}, has {miss.found}"
            for miss in rule.misses
        ]
    return "; ".join(parts) or "it has no rules"


def _workload_row(verdict: VerdictView) -> tuple[Cell | str, ...]:
    return (
        verdict.node,
        f"{verdict.workload}:{verdict.port}",
        _outcome(verdict.outcome),
        verdict.policy or "the mesh",
        verdict.reason,
    )


def _outcome(outcome: str) -> Cell:
    return Cell(outcome, Tone.GOOD if outcome == "permitted" else Tone.BAD)


def show_decision(session: Session, found: ExplainedView, *, wide: bool) -> None:
    """Print a recorded decision and the present answer."""
    decision = found.decision
    facts: list[tuple[str, Cell | str]] = [
        ("Decision", _outcome(decision.outcome)),
        ("Reason", decision.reason),
        ("Decided by", decision.policy or "the mesh"),
        ("From", decision.source or "a caller without an identity"),
        ("From host", decision.source_ip or "-"),
        ("To", f"{decision.destination or 'no workload'}:{decision.port}"),
        ("At node", decision.node),
        ("Times", f"{decision.count}, from {decision.first_seen} to {decision.last_seen}"),
    ]
    if decision.remote_ip:
        facts.insert(5, ("Original client", decision.remote_ip))
    if (asked := decision.request) is not None:
        facts.insert(-2, ("Last request", f"{asked.method} {asked.host}{asked.path}"))
    session.out.facts(facts)
    session.out.line()
    if found.now is None:
        session.out.line(f"It cannot be asked again: {found.why_not}.")
        return
    verb = "would be different now" if found.differs else "would be the same now"
    session.out.line(
        Cell(f"It {verb}:", Tone.DOUBTFUL if found.differs else Tone.PLAIN),
        _outcome(found.now.outcome),
        f"by {found.now.policy or 'the mesh'}: {found.now.reason}",
    )
    _show_rules(session, found.now, wide=wide)
    for remark in found.now.remarks:
        session.out.warn(remark)


def change_row(change: ChangeView) -> tuple[Cell | str, ...]:
    """Give a change as a row of CHANGE_COLUMNS."""
    return (
        str(change.count),
        short_identity(change.source) if change.source else NOBODY,
        f"{change.destination}:{change.port}",
        change.node,
        _outcome(change.before.outcome),
        _outcome(change.after.outcome),
        change.after.reason,
        change.last_seen,
    )


def finding_row(finding: FindingView) -> tuple[Cell | str, ...]:
    """Give a finding as a row of FINDING_COLUMNS."""
    return (
        Cell(finding.severity, _SEVERITIES.get(finding.severity, Tone.PLAIN)),
        finding.check,
        finding.policy,
        finding.kind,
        finding.path,
        finding.message,
        finding.mend,
    )

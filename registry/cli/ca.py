"""``meshctl ca``: the certificate authority's state, rotations, revocations, and what certificates say."""

from pathlib import Path
from typing import Annotated

import typer

from registry.cli.ca_answers import AuthorityView, CertificateView, RotationView
from registry.cli.ca_inspect import inspect_bundle, inspect_files
from registry.cli.config import pin_roots, pinned_roots
from registry.cli.exits import ExitCode
from registry.cli.options import OutputOption
from registry.cli.output import Cell, Column, Format, Tone
from registry.cli.session import Session, command
from registry.model.enrolment import MAX_REASON

# A rotation of the root takes a day where hosts are away; that and a holiday.
ROOT_DAYS = 90
ISSUER_DAYS = 30

app = typer.Typer(
    no_args_is_help=True, help="The certificate authority: state, rotation, revocation, federation."
)

NodeOption = Annotated[
    str | None, typer.Option("--node", help="Every certificate a node has obtained.", show_default=False)
]
IdentityOption = Annotated[
    str | None,
    typer.Option(
        "--identity",
        metavar="NAMESPACE/ACCOUNT",
        help="Every certificate of a workload's identity.",
        show_default=False,
    ),
]
SerialOption = Annotated[
    str | None,
    typer.Option(
        "--serial",
        metavar="HEX",
        help="One certificate; an intermediate's serial means all that it issued.",
        show_default=False,
    ),
]


@command(app, "status", examples=("meshctl ca status", "meshctl ca status -o json"))
def status(session: Session, output: OutputOption = Format.TABLE) -> ExitCode:
    """Show roots and intermediate with the days they have left, the rotation under way, and what is revoked.

    Ends with 1 when a root or the intermediate ends soon, for monitoring.
    """
    seen = session.registry.authority()
    ends_soon = seen.issuer.days_left < ISSUER_DAYS or any(root.days_left < ROOT_DAYS for root in seen.roots)
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(seen, output)
        case Format.NAME:
            session.out.line(seen.issuer.fingerprint)
        case Format.TABLE | Format.WIDE:
            _show_status(session, seen, wide=output is Format.WIDE)
    if not pinned_roots(session.settings.ca_pem) <= {root.fingerprint for root in seen.roots}:
        session.out.warn(
            "your configuration trusts a root that the mesh trusts no more; run `meshctl ca pin` while the "
            "registry can still prove itself by it"
        )
    return ExitCode.NOT_WELL if ends_soon else ExitCode.OK


_CERTIFICATES = (
    Column("CERTIFICATE"),
    Column("SUBJECT", folds=True),
    Column("DAYS LEFT"),
    Column("ENDS"),
    Column("KEY"),
    Column("SERIAL", wide=True),
    Column("SHA-256", wide=True),
)
_REVOCATIONS = (
    Column("REVOKED"),
    Column("VALUE", folds=True),
    Column("AT"),
    Column("FORGOTTEN"),
    Column("REASON", folds=True),
)


def _show_status(session: Session, seen: AuthorityView, *, wide: bool) -> None:
    rows = [
        *(_row("root", root, ROOT_DAYS) for root in seen.roots),
        _row("intermediate", seen.issuer, ISSUER_DAYS),
    ]
    session.out.table(_CERTIFICATES, rows, wide=wide)
    session.out.note(f"Trust domain {seen.trust_domain}, bundle of revision {seen.revision}.")
    if seen.rotation is not None:
        _show_rotation(session, seen.rotation)
    if seen.revocations:
        session.out.line("")
        session.out.table(
            _REVOCATIONS,
            [
                (each.kind, each.value, each.revoked_at, each.expires_at or "never", each.reason or "-")
                for each in seen.revocations
            ],
            wide=wide,
        )
    for domain in seen.federated:
        session.out.line("federated:", domain.trust_domain, f"({len(domain.roots)} roots)")


def _row(what: str, certificate: CertificateView, least: int) -> tuple[Cell | str, ...]:
    tone = Tone.BAD if certificate.days_left < least else Tone.GOOD
    return (
        what,
        certificate.subject,
        Cell(str(certificate.days_left), tone),
        certificate.not_after,
        certificate.key,
        certificate.serial,
        certificate.fingerprint,
    )


def _show_rotation(session: Session, rotation: RotationView) -> None:
    doing = {
        "spreading": "the new root is being spread; the old one issues",
        "moving": "the new intermediate issues; nodes renew",
    }.get(rotation.phase, rotation.phase)
    session.out.line(Cell("rotation:", Tone.DOUBTFUL), f"{doing} (since {rotation.since})")
    for each in rotation.waits_for:
        until = f", until {each.until} at most" if each.until else ""
        session.out.line(f"  waits: {each.why}{until}")


@command(
    app,
    "rotate",
    examples=(
        "meshctl ca rotate",
        "meshctl ca rotate --root",
        "meshctl ca rotate --continue",
        "meshctl ca rotate --continue --force",
        "meshctl ca rotate --abort",
    ),
)
def rotate(
    session: Session,
    root: Annotated[bool, typer.Option("--root", help="Change the root, with the intermediate.")] = False,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Take the next step now if nothing holds it up.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="With --continue: do not wait for hosts that are away. Those may be cut off."
        ),
    ] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Give up, before the new root issues.")] = False,
    output: OutputOption = Format.TABLE,
) -> ExitCode:
    """Change the intermediate, or the root, while everything runs.

    A new intermediate issues at once, and every node renews its certificates. A new root is spread to every
    node first, then its intermediate issues, then the old root goes; the registry takes these steps by itself
    as soon as no valid peer would be refused. Hosts that are off are waited for as long as their certificates
    could live; `meshctl ca status` names them. Join tokens made before a rotation of the root are void once
    the old root goes.
    """
    if sum((root, go_on, abort)) > 1 or (force and not go_on):
        raise typer.BadParameter("give one of --root, --continue and --abort; --force goes with --continue")
    if abort:
        moved = session.registry.abort_rotation()
    elif go_on:
        moved = session.registry.continue_rotation(force=force)
    else:
        moved = session.registry.start_rotation(root=root)
    if not output.for_people:
        if output is not Format.NAME:
            session.out.data(moved, output)
        return ExitCode.OK
    if abort:
        session.out.line("rotation given up")
    elif moved.rotation is None:
        session.out.line("rotation done")
    else:
        _show_rotation(session, moved.rotation)
        if go_on and not moved.moved:
            return ExitCode.NOT_WELL
    return ExitCode.OK


@command(
    app,
    "revoke",
    examples=(
        "meshctl ca revoke --node web-3 --reason 'stolen disk'",
        "meshctl ca revoke --identity default/web",
        "meshctl ca revoke --serial 5f3a09",
    ),
)
def revoke(
    session: Session,
    node: NodeOption = None,
    identity: IdentityOption = None,
    serial: SerialOption = None,
    reason: Annotated[str, typer.Option(help=f"Why, at most {MAX_REASON} characters.")] = "",
    output: OutputOption = Format.TABLE,
) -> ExitCode:
    """Refuse certificates before their time, on every proxy, and cut the connections they opened.

    A node's and an identity's certificates are meant as issued until now. A revoked node cannot renew: it
    joins again with a new token. Nodes enrolled for a revoked identity get new certificates for it at once;
    what they hold for it now, or somebody copied, is void.
    """
    kind, value = _one_of(node=node, identity=identity, serial=serial)
    if len(reason) > MAX_REASON:
        raise typer.BadParameter(f"the reason has {len(reason)} characters, {MAX_REASON} are kept")
    made = session.registry.revoke(kind, value, reason=reason)
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(made, output)
        case Format.NAME:
            session.out.line(made.revocation.value)
        case Format.TABLE | Format.WIDE:
            session.out.line(f"revoked: {kind} {made.revocation.value}")
            if made.enrolled is False:
                session.out.warn(f"no node named {made.revocation.value} is enrolled; is that its name?")
    return ExitCode.OK


@command(
    app,
    "unrevoke",
    examples=("meshctl ca unrevoke --node web-3", "meshctl ca unrevoke --serial 5f3a09"),
)
def unrevoke(
    session: Session, node: NodeOption = None, identity: IdentityOption = None, serial: SerialOption = None
) -> ExitCode:
    """Lift a revocation: certificates that are not past their life are good again."""
    kind, value = _one_of(node=node, identity=identity, serial=serial)
    lifted = session.registry.unrevoke(kind, value)
    session.out.line(f"no longer revoked: {lifted.kind} {lifted.value}")
    return ExitCode.OK


def _one_of(**said: str | None) -> tuple[str, str]:
    given = [(kind, value) for kind, value in said.items() if value is not None]
    if len(given) != 1:
        raise typer.BadParameter("give one of --node, --identity and --serial")
    return given[0]


@command(
    app,
    "inspect",
    examples=(
        "meshctl ca inspect",
        "meshctl ca inspect /run/nodemesh/web.pem",
        "meshctl ca inspect chain.pem --roots roots.pem --trust-domain nodemesh.local",
    ),
)
def inspect(
    session: Session,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="PEM files, read without asking the registry."),
    ] = None,
    roots: Annotated[
        Path | None,
        typer.Option(help="Check each file as a chain, leaf first, against these roots.", show_default=False),
    ] = None,
    trust_domain: Annotated[
        str | None,
        typer.Option(help="The trust domain that is expected with --roots.", show_default=False),
    ] = None,
    output: OutputOption = Format.TABLE,
) -> ExitCode:
    """Show what certificates say and what is wrong with them; without files, those of the trust bundle.

    Ends with 1 if anything is wrong.
    """
    if not files:
        return inspect_bundle(session, output)
    if (roots is None) != (trust_domain is None):
        raise typer.BadParameter("--roots and --trust-domain belong together")
    return inspect_files(session, files, roots=roots, trust_domain=trust_domain or "", output=output)


@command(app, "pin", examples=("meshctl ca pin",))
def pin(session: Session) -> ExitCode:
    """Write the roots that the mesh trusts now into your configuration, after a rotation of the root.

    They come over a connection that the roots you trust already vouch for.
    """
    roots = session.registry.trust_bundle().spec.roots_pem
    path = pin_roots(session.settings, roots)
    session.out.line(f"{path}: trusts {len(roots)} root{'' if len(roots) == 1 else 's'} now")
    return ExitCode.OK


@command(app, "federate", examples=("meshctl ca federate --trust-domain other.mesh --roots other-roots.pem",))
def federate(
    session: Session,
    trust_domain: Annotated[str, typer.Option(help="The other mesh's trust domain.", show_default=False)],
    roots: Annotated[Path, typer.Option(help="Its roots, in PEM.", show_default=False)],
) -> ExitCode:
    """Recognise another mesh's identities, by its roots; policies say what they may.

    Its roots are not followed: give them anew when that mesh rotates.
    """
    try:
        text = roots.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{roots} cannot be read: {error}") from error
    made = session.registry.federate(trust_domain, text)
    session.out.line(f"federated: {made.trust_domain}, {len(made.roots)} roots")
    return ExitCode.OK


@command(app, "unfederate", examples=("meshctl ca unfederate --trust-domain other.mesh",))
def unfederate(
    session: Session,
    trust_domain: Annotated[str, typer.Option(help="The other mesh's trust domain.", show_default=False)],
) -> ExitCode:
    """Recognise another mesh's identities no more."""
    session.registry.unfederate(trust_domain)
    session.out.line(f"no longer federated: {trust_domain}")
    return ExitCode.OK

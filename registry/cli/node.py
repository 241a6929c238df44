"""``meshctl node``: who may join, and who has."""

from typing import Annotated

import typer

from registry.cli.answers import EnrolmentView, NodeView, NodeWorkload
from registry.cli.exits import ExitCode
from registry.cli.options import OutputOption, TimeToLiveOption
from registry.cli.output import Cell, Column, Format, Tone
from registry.cli.session import Session, command
from registry.model.identity import InvalidIdentity, WorkloadIdentity, parse_identity

app = typer.Typer(no_args_is_help=True, help="Let hosts join the mesh, and see those that did.")
token_app = typer.Typer(no_args_is_help=True, help="One-time tokens by which hosts join.")
app.add_typer(token_app, name="token")

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="The node's name.", show_default=False)]
IdentityOption = Annotated[
    list[str],
    typer.Option(
        metavar="NAMESPACE/ACCOUNT", help="Identity; may be given several times.", show_default=False
    ),
]


@command(
    token_app,
    "create",
    examples=(
        "meshctl node token create --node 'web-*' --identity default/web --ttl 1h",
        "meshctl node token create --node db-1 --identity default/db --identity default/backup",
        "TOKEN=$(meshctl node token create --node web-1 --identity default/web 2>/dev/null)",
    ),
)
def create_token(
    session: Session,
    node: Annotated[
        str, typer.Option(help="Name of the host, or a pattern such as 'web-*'.", show_default=False)
    ],
    identity: Annotated[
        list[str],
        typer.Option(
            metavar="NAMESPACE/ACCOUNT",
            help="Identity the host's workloads may have; may be given several times.",
            show_default=False,
        ),
    ],
    ttl: TimeToLiveOption = 3600,
    uses: Annotated[int, typer.Option(min=1, help="How many hosts may join with it.")] = 1,
    require_approval: Annotated[
        bool,
        typer.Option("--require-approval", help="Let hosts wait until `meshctl node approve` lets them in."),
    ] = False,
    output: OutputOption = Format.TABLE,
) -> ExitCode:
    """Make a token by which a host may join.

    The token stands alone on standard output, this once: the registry keeps only its hash. Hand it to the
    host as you would a password. It also pins the mesh's certificate authority, so that the host cannot be
    made to join a false registry.
    """
    made = session.registry.create_token(
        node=node,
        identities=tuple(identity),
        ttl_seconds=ttl,
        uses=uses,
        require_approval=require_approval,
    )
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(made, output)
        case Format.NAME:
            session.out.line(made.id)
        case Format.TABLE | Format.WIDE:
            session.out.raw(made.token)
            times = "once" if uses == 1 else f"{uses} times"
            session.out.note(
                f"Good until {made.expires_at}, {times}, for nodes named {node}. On the host run:"
            )
            session.out.note(
                f"  nodemesh-proxy join --registry {session.settings.server} --token TOKEN "
                "--config /etc/nodemesh/proxy.toml"
            )
    return ExitCode.OK


@command(
    app, "list", examples=("meshctl node list", "meshctl node list -o wide", "meshctl node list -o json")
)
def list_nodes(session: Session, output: OutputOption = Format.TABLE) -> ExitCode:
    """List the nodes that have joined, and the workloads on them.

    A node that is down, or cannot reach etcd, is not live: its enrolment stays, its record and workloads
    are gone.
    """
    answer = session.registry.list_nodes()
    nodes = answer.items
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(answer, output)
        case Format.NAME:
            for node in nodes:
                session.out.line(node.node)
        case Format.TABLE | Format.WIDE:
            if not nodes:
                session.out.note(
                    "No node has joined; `meshctl node token create --help` says how to let one."
                )
                return ExitCode.OK
            wide = output is Format.WIDE
            session.out.table(_COLUMNS, [_row(node, wide=wide) for node in nodes], wide=wide)
            for remark in (remark for node in nodes for remark in node.remarks):
                session.out.warn(remark)
            for node in nodes:
                if node.pending:
                    session.out.note(f"{node.node} waits: meshctl node approve {node.node}")
            if answer.etcd_users is False:
                session.out.note(
                    "etcd has no users enabled: whoever reaches it may write to it. What nodes and registry "
                    "sign holds all the same."
                )
    return ExitCode.OK


@command(app, "approve", examples=("meshctl node approve web-1",))
def approve(session: Session, node: NodeArgument, output: OutputOption = Format.TABLE) -> ExitCode:
    """Let in a node that waits for approval.

    Look at `meshctl node list -o wide` before: it shows what the node may be. An enrolment whose signature
    does not hold, as after a restore, is signed as it stands.
    """
    _show_enrolment(session, session.registry.approve_node(node), output)
    return ExitCode.OK


@command(app, "allow", examples=("meshctl node allow web-1 --identity default/web",))
def allow(
    session: Session, node: NodeArgument, identity: IdentityOption, output: OutputOption = Format.TABLE
) -> ExitCode:
    """Let a node hold further identities; its proxy asks for the certificates when it needs them."""
    _show_enrolment(session, session.registry.allow_node(node, tuple(identity)), output)
    return ExitCode.OK


@command(app, "forbid", examples=("meshctl node forbid web-1 --identity default/web",))
def forbid(
    session: Session, node: NodeArgument, identity: IdentityOption, output: OutputOption = Format.TABLE
) -> ExitCode:
    """Let a node no longer hold identities, and revoke the certificates that it has for them.

    Other nodes that may hold the same identities are not concerned.
    """
    _show_enrolment(session, session.registry.forbid_node(node, tuple(identity)), output)
    return ExitCode.OK


@command(app, "revoke", examples=("meshctl node revoke web-1 --reason 'host was stolen'",))
def revoke(
    session: Session,
    node: NodeArgument,
    reason: Annotated[str, typer.Option(help="Shown to whoever meets the node.")] = "",
    output: OutputOption = Format.TABLE,
) -> ExitCode:
    """End a node's membership: its enrolment, all its certificates and its etcd user.

    Its open tunnels are cut by every other node within seconds. A new token lets the host in again.
    """
    revoked = session.registry.revoke_node(node, reason=reason)
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(revoked, output)
        case Format.NAME:
            session.out.line(revoked.node)
        case Format.TABLE | Format.WIDE:
            session.out.line(f"{revoked.node} is revoked")
            if not revoked.enrolled:
                session.out.warn(f"no node named {revoked.node} was enrolled")
    return ExitCode.OK


def _show_enrolment(session: Session, enrolment: EnrolmentView, output: Format) -> None:
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(enrolment, output)
        case Format.NAME:
            session.out.line(enrolment.node)
        case Format.TABLE | Format.WIDE:
            may_be = ", ".join(map(short_identity, enrolment.identities)) or "nothing"
            session.out.line(f"{enrolment.node} is enrolled and may be: {may_be}")
            if not enrolment.changed:
                session.out.note("Nothing was changed: it was so already.")


_COLUMNS = (
    Column("NODE"),
    Column("STATE"),
    Column("ADDRESS"),
    Column("ZONE"),
    Column("VERSION"),
    Column("WORKLOADS", folds=True),
    Column("ENROLLED", wide=True),
    Column("MAY BE", wide=True),
)


def _row(node: NodeView, *, wide: bool) -> tuple[Cell | str, ...]:
    state = Cell("live", Tone.GOOD) if node.live else Cell("down", Tone.BAD)
    if node.pending:
        state = Cell("waits", Tone.DOUBTFUL)
    address = (
        f"{node.address}:{node.tunnel_port}" if node.address and node.tunnel_port else node.address or "-"
    )
    if ":" in (node.address or "") and node.tunnel_port:
        address = f"[{node.address}]:{node.tunnel_port}"
    zone = "/".join(part for part in (node.region, node.zone) if part) or "-"
    workloads = ", ".join(_describe(workload, wide=wide) for workload in node.workloads) or "-"
    may_be = ", ".join(node.identities if wide else map(short_identity, node.identities)) or "-"
    return node.node, state, address, zone, node.version or "-", workloads, node.enrolled_at or "-", may_be


def _describe(workload: NodeWorkload, *, wide: bool) -> str:
    ports = ",".join(str(port) for port in workload.ports)
    health = "" if workload.health == "healthy" else f" {workload.health}"
    return f"{workload.name}:{ports}{f' as {workload.identity}' if wide else ''}{health}"


def short_identity(identity: str) -> str:
    """Write a workload's SPIFFE ID as ``namespace/account``; anything else as it is."""
    try:
        parsed = parse_identity(identity)
    except InvalidIdentity:
        return identity
    return f"{parsed.namespace}/{parsed.account}" if isinstance(parsed, WorkloadIdentity) else identity

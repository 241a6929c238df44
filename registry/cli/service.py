"""``meshctl service``: names that can be called, and what answers."""

import typer

from registry.cli.answers import EndpointView, ServiceView
from registry.cli.exits import ExitCode
from registry.cli.kinds import label_of, locate, parse_kind
from registry.cli.node import short_identity
from registry.cli.options import (
    AllNamespacesOption,
    NameArgument,
    NamespaceOption,
    OutputOption,
    chosen_namespace,
)
from registry.cli.output import Cell, Column, Format, Tone
from registry.cli.session import Session, command
from registry.model.resource import DEFAULT_NAMESPACE

app = typer.Typer(no_args_is_help=True, help="See services, their virtual addresses and endpoints.")

_SERVICE_COLUMNS = (
    Column("NAMESPACE"),
    Column("NAME"),
    Column("PORTS"),
    Column("VIRTUAL IPS"),
    Column("ENDPOINTS"),
    Column("STATE", folds=True),
    Column("SERVED AS", wide=True),
)
_ENDPOINT_COLUMNS = (
    Column("NODE"),
    Column("WORKLOAD"),
    Column("ADDRESS"),
    Column("IDENTITY"),
    Column("HEALTH"),
    Column("TAKES TRAFFIC", folds=True),
)


@command(
    app,
    "list",
    examples=("meshctl service list", "meshctl service list -n shop", "meshctl service list -A -o wide"),
)
def list_services(
    session: Session,
    namespace: NamespaceOption = None,
    everywhere: AllNamespacesOption = False,
    output: OutputOption = Format.TABLE,
) -> ExitCode:
    """List the services: ports, virtual addresses, how many endpoints take traffic.

    ENDPOINTS says usable/known, or external for what is outside the mesh. STATE says whether the mesh
    accepted the service, and if not why.
    """
    said = chosen_namespace(namespace, everywhere=everywhere)
    wanted = None if everywhere else said or DEFAULT_NAMESPACE
    services = session.registry.list_services(wanted)
    match output:
        case Format.JSON | Format.YAML:
            session.out.data({"items": services}, output)
        case Format.NAME:
            for service in services:
                session.out.line(label_of(locate(parse_kind(service.kind), service.namespace, service.name)))
        case Format.TABLE | Format.WIDE:
            if not services:
                session.out.note(
                    "No services."
                    if wanted is None
                    else f"No services in namespace {wanted}; -A shows every namespace."
                )
                return ExitCode.OK
            rows = [_service_row(service) for service in services]
            session.out.table(_SERVICE_COLUMNS, rows, wide=output is Format.WIDE)
    return ExitCode.OK


@command(
    app,
    "get",
    examples=(
        "meshctl service get web",
        "meshctl service get shop/web -o json",
        "meshctl service get web -o wide",
    ),
)
def get_service(
    session: Session,
    name: NameArgument,
    namespace: NamespaceOption = None,
    output: OutputOption = Format.TABLE,
) -> ExitCode:
    """Show one service and every endpoint, with the reason why one takes no traffic.

    Exit code 1 when there is no such service; what is shown of one that is there does not change it.
    """
    where = chosen_namespace(namespace, name.namespace) or DEFAULT_NAMESPACE
    service = session.registry.get_service(where, name.name)
    match output:
        case Format.JSON | Format.YAML:
            session.out.data(service, output)
        case Format.NAME:
            session.out.line(label_of(locate(parse_kind(service.kind), service.namespace, service.name)))
        case Format.TABLE | Format.WIDE:
            _show(session, service, wide=output is Format.WIDE)
    return ExitCode.OK


def _show(session: Session, service: ServiceView, *, wide: bool) -> None:
    identities = service.identities if wide else map(short_identity, service.identities)
    session.out.facts(
        [
            ("Name", service.name),
            ("Namespace", service.namespace),
            ("State", _state(service)),
            ("Ports", ", ".join(port.describe() for port in service.ports)),
            ("Virtual IPs", ", ".join(service.vips) or "none yet"),
            ("Outside the mesh as", ", ".join(service.hosts))
            if service.external
            else ("Served as", ", ".join(identities)),
        ]
    )
    if service.external:
        return
    session.out.line()
    if not service.endpoints:
        session.out.line("No endpoints: no live node has a workload that the selector matches.")
        return
    rows = [_endpoint_row(endpoint, wide=wide) for endpoint in service.endpoints]
    session.out.table(_ENDPOINT_COLUMNS, rows, wide=wide)


def _state(service: ServiceView) -> Cell:
    if not service.accepted:
        return Cell("rejected: " + ("; ".join(service.reasons) or "not judged yet"), Tone.BAD)
    if service.reasons:
        return Cell("accepted; " + "; ".join(service.reasons), Tone.DOUBTFUL)
    return Cell("accepted", Tone.GOOD)


def _service_row(service: ServiceView) -> tuple[Cell | str, ...]:
    known = len(service.endpoints)
    tone = Tone.BAD if not service.usable else Tone.GOOD if service.usable == known else Tone.DOUBTFUL
    return (
        service.namespace,
        service.name,
        ", ".join(port.describe() for port in service.ports),
        ", ".join(service.vips) or "-",
        "external" if service.external else Cell(f"{service.usable}/{known}", tone),
        _state(service),
        ", ".join(service.hosts or service.identities),
    )


def _endpoint_row(endpoint: EndpointView, *, wide: bool) -> tuple[Cell | str, ...]:
    host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    return (
        endpoint.node,
        endpoint.workload,
        f"{host}:{endpoint.port}",
        endpoint.identity if wide else short_identity(endpoint.identity),
        Cell(endpoint.health, Tone.GOOD if endpoint.health == "healthy" else Tone.BAD),
        Cell("yes", Tone.GOOD)
        if endpoint.usable
        else Cell(f"no: {endpoint.why or 'no reason given'}", Tone.BAD),
    )

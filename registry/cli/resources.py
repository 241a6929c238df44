"""``meshctl get`` and ``meshctl delete``: the resources operators write, of any kind."""

import typer

from registry.cli.answers import StoredResource
from registry.cli.apply import refuse
from registry.cli.changes import Outcome, make_changes
from registry.cli.exits import ExitCode
from registry.cli.kinds import MESH_NAME, QualifiedName, Target, label_of, locate
from registry.cli.options import (
    AllNamespacesOption,
    FilesOption,
    KindArgument,
    NamespaceOption,
    OptionalKindArgument,
    OptionalNameArgument,
    OutputOption,
    chosen_namespace,
)
from registry.cli.output import Cell, Column, Format, Tone, plain, render_yaml
from registry.cli.session import Session, command
from registry.cli.sources import read_sources
from registry.cli.summary import summarise
from registry.model.mesh import Mesh
from registry.model.resource import DEFAULT_NAMESPACE
from registry.store.keys import ResourceKey, parse

app = typer.Typer()

_COLUMNS = (
    Column("NAMESPACE"),
    Column("NAME"),
    Column("REVISION"),
    Column("STATE"),
    Column("WHAT", folds=True),
    Column("LABELS", wide=True),
)
_REASON_COLUMNS = (Column("NAMESPACE"), Column("NAME"), Column("REASON", folds=True))


@command(
    app,
    "get",
    examples=(
        "meshctl get svc",
        "meshctl get authorizationpolicies -A -o wide",
        "meshctl get ap deny-web -n shop -o yaml",
        "meshctl get httproutes -n shop",
        "meshctl get mesh -o yaml > mesh.yaml",
    ),
)
def get(
    session: Session,
    kind: KindArgument,
    name: OptionalNameArgument = None,
    namespace: NamespaceOption = None,
    everywhere: AllNamespacesOption = False,
    output: OutputOption = Format.TABLE,
) -> ExitCode:
    """Show resources as operators wrote them: all of a kind, or one by name.

    What -o yaml prints can be edited and given to `meshctl apply -f`. A value that does not parse, from
    etcdctl say, is listed with its error. STATE is what the controller says: accepted, warned (accepted,
    though most likely not meant so) or rejected, with the reasons below.
    """
    single = _wanted(kind, name, namespace, everywhere=everywhere)
    if single is not None:
        found: tuple[StoredResource, ...] = (session.registry.get_resource(single),)
    else:
        said = chosen_namespace(namespace, kind.namespace, everywhere=everywhere)
        wanted = None if everywhere else said or DEFAULT_NAMESPACE
        found = session.registry.list_resources(kind.kind.PLURAL, wanted)
        if not found and output.for_people:
            where = "" if wanted is None else f" in namespace {wanted}; -A shows every namespace"
            session.out.note(f"No {kind.kind.PLURAL}{where}.")
            return ExitCode.OK
    match output:
        case Format.JSON:
            session.out.data(found[0].resource if single else {"items": found}, output)
        case Format.YAML:
            session.out.raw(_documents(found))
        case Format.NAME:
            for stored in found:
                session.out.line(label_of(_key(stored, single)))
        case Format.TABLE | Format.WIDE:
            keyed = [(stored, _key(stored, single)) for stored in found]
            wide = output is Format.WIDE
            session.out.table(_COLUMNS, [_row(stored, key) for stored, key in keyed], wide=wide)
            reasons = [
                (key.namespace, key.name, reason) for stored, key in keyed for reason in stored.reasons
            ]
            if reasons:
                session.out.line()
                session.out.table(_REASON_COLUMNS, reasons, wide=wide)
    return ExitCode.OK


@command(
    app,
    "delete",
    examples=(
        "meshctl delete svc web",
        "meshctl delete ap/deny-web -n shop",
        "meshctl delete -f policies/",
        "meshctl get ap -n shop -o name | xargs -n1 meshctl delete",
    ),
)
def delete(
    session: Session,
    kind: OptionalKindArgument = None,
    name: OptionalNameArgument = None,
    namespace: NamespaceOption = None,
    file: FilesOption = [],  # noqa: B006 - typer copies it
    output: OutputOption = Format.TABLE,
) -> ExitCode:
    """Delete one resource by kind and name, or every resource that files name.

    No question is asked. Files are checked whole before anything is deleted. Exit code 1 when one does not
    exist; the others are deleted all the same.
    """
    if bool(file) == (kind is not None):
        raise typer.BadParameter("name one resource as KIND NAME, or give -f FILE")
    if kind is not None:
        single = _wanted(kind, name, namespace, everywhere=False)
        if single is None:
            raise typer.BadParameter(f"which of the {kind.kind.PLURAL}? Write KIND NAME")
        keys = [single]
    else:
        if namespace is not None:
            raise typer.BadParameter("-n does not go with -f: files say the namespace of each resource")
        reading = read_sources(file)
        if reading.invalid:
            return refuse(session, reading)
        keys = [each.key for each in reading.written]

    def remove(key: ResourceKey) -> Outcome:
        session.registry.delete_resource(key)
        return Outcome.DELETED

    return make_changes(session, keys, remove, output)


def _wanted(
    kind: Target, name: QualifiedName | None, namespace: str | None, *, everywhere: bool
) -> ResourceKey | None:
    """Settle which single resource the words name; None when they name a kind only."""
    if kind.name is not None and name is not None:
        raise typer.BadParameter(f"two names are given: {kind.name} and {name.name}")
    within, said = (name.namespace, name.name) if name else (None, kind.name)
    if said is None and kind.kind is Mesh:
        said = MESH_NAME
    if said is None:
        return None
    if everywhere:
        raise typer.BadParameter("-A does not go with a name")
    return locate(kind.kind, chosen_namespace(namespace, kind.namespace, within), said)


def _key(stored: StoredResource, asked: ResourceKey | None) -> ResourceKey:
    """Give a listed resource's key; the answer to one resource need not repeat it."""
    if asked is not None:
        return asked
    match parse(stored.key):
        case ResourceKey() as key:
            return key
        case _:
            return locate(Mesh, None, MESH_NAME)


def _row(stored: StoredResource, key: ResourceKey) -> tuple[Cell | str, ...]:
    labels: dict[str, str] = {}
    if stored.resource is None:
        what = Cell(f"does not parse: {stored.error}", Tone.BAD)
    else:
        what = Cell(summarise(stored.resource))
        labels = stored.resource.get("metadata", {}).get("labels", {})
    text = ",".join(f"{name}={value}" for name, value in labels.items()) or "-"
    return key.namespace, key.name, str(stored.revision), _state(stored), what, text


def _state(stored: StoredResource) -> Cell:
    match stored.accepted:
        case _ if stored.resource is None:
            return Cell("rejected", Tone.BAD)
        case None:
            return Cell("-")
        case False:
            return Cell("rejected", Tone.BAD)
        case _ if stored.reasons:
            return Cell("warned", Tone.DOUBTFUL)
        case _:
            return Cell("accepted", Tone.GOOD)


def _documents(found: tuple[StoredResource, ...]) -> str:
    """Write resources as a stream that `apply` takes; what does not parse stays visible as a comment."""
    return "---\n".join(
        f"# {plain(stored.key)} at revision {stored.revision} does not parse: {plain(stored.error or '')}\n"
        if stored.resource is None
        else render_yaml(stored.resource)
        for stored in found
    )

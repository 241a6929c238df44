"""``meshctl apply``: make the mesh's resources what files say."""

import typer

from registry.cli.changes import Outcome, make_changes
from registry.cli.client import RegistryClient
from registry.cli.exits import ExitCode, explain
from registry.cli.options import FilesOption, OutputOption
from registry.cli.output import Format
from registry.cli.session import Session, command
from registry.cli.sources import Reading, read_sources
from registry.errors import InvalidResource, NotFound
from registry.model.parse import from_builtins
from registry.model.resource import Resource
from registry.store.keys import ResourceKey

app = typer.Typer()


@command(
    app,
    "apply",
    examples=(
        "meshctl apply -f web.yaml",
        "meshctl apply -f services/ -f policies/",
        "meshctl get ap -o yaml > ap.yaml; $EDITOR ap.yaml; meshctl apply -f ap.yaml",
    ),
)
def apply(session: Session, file: FilesOption, output: OutputOption = Format.TABLE) -> ExitCode:
    """Create or change resources so that they are as the files say.

    Every document is checked here before the first is sent: one mistake, and nothing changes. What is
    already so is left alone. Prints for each resource: created, configured or unchanged. If somebody
    changes a resource at the same moment, theirs stays and this one fails (exit code 6).
    """
    reading = read_sources(file)
    if reading.invalid:
        return refuse(session, reading)
    resources = {each.key: each.resource for each in reading.written}
    return make_changes(
        session, list(resources), lambda key: _apply_one(session.registry, key, resources[key]), output
    )


def refuse(session: Session, reading: Reading) -> ExitCode:
    """Say every invalid document; nothing is sent."""
    for error in reading.invalid:
        session.out.fail(explain(error))
    session.out.note("Nothing was sent.")
    return ExitCode.INVALID


def _apply_one(registry: RegistryClient, key: ResourceKey, resource: Resource) -> Outcome:
    expected: int | None
    try:
        stored = registry.get_resource(key)
    except NotFound:
        expected = 0
    except InvalidResource:
        # A value that does not parse has no revision to name; overwriting it is the mend.
        expected = None
    else:
        if stored.resource is not None and _is(stored.resource, resource, key):
            return Outcome.UNCHANGED
        expected = stored.revision
    created = registry.put_resource(key, resource, expected=expected).created
    return Outcome.CREATED if created else Outcome.CONFIGURED


def _is(stored: dict[str, object], resource: Resource, key: ResourceKey) -> bool:
    try:
        return from_builtins(stored, where=key.name) == resource
    except InvalidResource:
        return False

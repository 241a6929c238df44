"""Writing many resources one after the other: what became of each is kept, said and summed up."""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from registry.cli.exits import ExitCode, explain
from registry.cli.kinds import label_of
from registry.cli.output import Cell, Format, Tone
from registry.cli.session import Session
from registry.errors import Conflict, InvalidResource, NotFound, RegistryError
from registry.store.keys import ResourceKey


class Outcome(enum.Enum):
    """What became of a resource."""

    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    FAILED = "failed"
    NOT_TRIED = "not tried"


_TONES = {Outcome.UNCHANGED: Tone.QUIET, Outcome.FAILED: Tone.BAD, Outcome.NOT_TRIED: Tone.BAD}


@dataclass(frozen=True, slots=True)
class Change:
    """One resource's outcome; `error` in one line when it failed."""

    resource: str
    outcome: Outcome
    error: str = ""


def make_changes(
    session: Session,
    keys: Sequence[ResourceKey],
    change: Callable[[ResourceKey], Outcome],
    output: Format,
) -> ExitCode:
    """Change each resource in turn; gives the first failure's code.

    A resource's own failure does not stop the others; a registry that does not answer or knows us not does.
    """
    changes: list[Change] = []
    code = ExitCode.OK
    for position, key in enumerate(keys):
        try:
            done = Change(label_of(key), change(key))
        except RegistryError as error:
            failure = explain(error)
            code = code or failure.code
            done = Change(label_of(key), Outcome.FAILED, str(error))
            _say(session, done, output)
            session.out.fail(failure)
            changes.append(done)
            if not isinstance(error, InvalidResource | Conflict | NotFound):
                rest = [Change(label_of(other), Outcome.NOT_TRIED) for other in keys[position + 1 :]]
                for left in rest:
                    _say(session, left, output)
                changes += rest
                break
        else:
            _say(session, done, output)
            changes.append(done)
    if output in {Format.JSON, Format.YAML}:
        session.out.data({"items": changes}, output)
    return code


def _say(session: Session, change: Change, output: Format) -> None:
    if output.for_people:
        session.out.line(change.resource, Cell(change.outcome.value, _TONES.get(change.outcome, Tone.GOOD)))
    elif output is Format.NAME and change.outcome not in {Outcome.FAILED, Outcome.NOT_TRIED}:
        session.out.line(change.resource)

"""Resources from what -f names: files, directories, standard input; all of it read and judged before use."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.errors import ConfigError, InvalidResource
from registry.model.document import read_documents
from registry.model.parse import OPERATOR_KINDS, from_builtins
from registry.model.resource import Resource
from registry.store.keys import ResourceKey

STANDARD_INPUT = "-"
_SUFFIXES = frozenset({".yaml", ".yml", ".json"})


@dataclass(frozen=True, slots=True)
class Written:
    """A resource and where it was written, as in ``mesh.yaml (document 2)``."""

    where: str
    resource: Resource

    @property
    def key(self) -> ResourceKey:
        """Its key; the mesh too has one in the API."""
        metadata = self.resource.metadata
        return ResourceKey(self.resource.PLURAL, metadata.namespace, metadata.name)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read: the resources in the order written, and every document that is none."""

    written: tuple[Written, ...]
    invalid: tuple[InvalidResource, ...]


def read_sources(sources: Sequence[str]) -> Reading:
    """Read every source; one wrong document does not hide the next.

    Raises:
        ConfigError: a source that cannot be read, or nothing in any of them.
    """
    if len(set(sources)) < len(sources):
        raise ConfigError("a -f is given twice; give each file once")
    written: list[Written] = []
    invalid: list[InvalidResource] = []
    for where, data in (pair for source in sources for pair in _load(source)):
        try:
            documents = read_documents(data, where=where)
        except InvalidResource as error:
            invalid.append(error)
            continue
        for place, document in documents:
            try:
                resource = from_builtins(document, where=place, kinds=OPERATOR_KINDS)
            except InvalidResource as error:
                invalid.append(error)
            else:
                written.append(Written(place, resource))
    if not written and not invalid:
        raise ConfigError(f"{', '.join(sources)}: no resource in it")
    return Reading(tuple(written), (*invalid, *_repeated(written)))


def _repeated(written: Sequence[Written]) -> list[InvalidResource]:
    first: dict[ResourceKey, Written] = {}
    found = []
    for each in written:
        earlier = first.setdefault(each.key, each)
        if earlier is not each:
            found.append(
                InvalidResource(
                    where=each.where,
                    path="metadata.name",
                    reason=f"{each.resource.KIND} {each.resource.name} is already in {earlier.where}",
                    mend="keep one of them",
                )
            )
    return found


def _load(source: str) -> list[tuple[str, bytes]]:
    if source == STANDARD_INPUT:
        return [("standard input", sys.stdin.buffer.read())]
    path = Path(source)
    try:
        if not path.is_dir():
            return [(source, path.read_bytes())]
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
        if not files:
            raise ConfigError(f"{source}: no *.yaml, *.yml or *.json file in this directory")
        return [(str(file), file.read_bytes()) for file in files]
    except OSError as error:
        raise ConfigError(f"{error.filename or source}: cannot be read: {error.strerror}") from error

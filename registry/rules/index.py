"""Which of many policies matches a request first, without asking them all.

Pure. A rule that names its callers is filed under each of them, and below that under its ports; a request
looks only into the folders of its own principal, account, namespace, address and port, and into that of the
rules that name nobody. So the cost of a decision hardly grows with the number of policies about other callers
and ports. What requests are asked about is filed once more, by path or host (`registry.rules.shelf`). The
answer is that of asking each policy in turn, by name.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

from registry.rules import facts
from registry.rules.facts import Facts
from registry.rules.matching import Clauses, CompiledPolicy, Condition, Form
from registry.rules.patterns import read_address, read_network
from registry.rules.shelf import Entry, Match, Shelf

# A rule that names more callers times ports than this is filed by callers alone: the index stays small.
_MAX_PLACES: Final = 256
_NETWORKS: Final = (facts.SOURCE_IP, facts.REMOTE_IP)
# Conditions by which a rule may be filed, the most telling first.
_ANCHORS: Final = (facts.PRINCIPAL, facts.ACCOUNT, facts.NAMESPACE, *_NETWORKS)


class _Folder:
    """Entries by port, and those for any port."""

    __slots__ = ("any_port", "by_port")

    def __init__(self) -> None:
        self.by_port: dict[int, Shelf] = {}
        self.any_port: Shelf | None = None

    def file(self, entry: Entry, ports: frozenset[int] | None) -> None:
        if ports is None:
            self.any_port = self.any_port or Shelf()
            self.any_port.file(entry)
        else:
            for port in ports:
                self.by_port.setdefault(port, Shelf()).file(entry)


# Folders by a caller's name, or by what is left of it or of its address when it is cut.
_ByText = defaultdict[str, _Folder]
_ByNumber = defaultdict[int, _Folder]


class RuleIndex:
    """The rules of some policies in one form.

    Args:
        policies: in the order in which they are asked.
        form: of the rules.
    """

    def __init__(self, policies: Sequence[CompiledPolicy], form: Form) -> None:
        # By subject; by subject and length; by subject, IP version and open bits.
        self._exact: dict[int, _ByText] = {}
        self._prefixes: dict[tuple[int, int], _ByText] = {}
        self._suffixes: dict[tuple[int, int], _ByText] = {}
        self._networks: dict[tuple[int, int, int], _ByNumber] = {}
        self._anybody = _Folder()
        order = 0
        for policy in policies:
            for number, rule in enumerate(policy.rules):
                clauses = rule.clauses(form)
                if clauses is None:
                    continue
                for conditions in clauses.callers or ((),):
                    match = Match(policy.name, number)
                    entry = Entry(order, match, (*conditions, *clauses.when), clauses.targets)
                    self._file(entry, _ports_of(entry, clauses))
                    order += 1

    def first(self, request: Facts) -> Match | None:
        """Give the first rule that matches."""
        best: Entry | None = None
        for entries in self._candidates(request):
            for entry in entries:
                if best is not None and entry.order >= best.order:
                    break
                if entry.holds(request):
                    best = entry
                    break
        return best.match if best is not None else None

    def all(self, request: Facts) -> tuple[str, ...]:
        """Give the names of all policies with a rule that matches, in order."""
        found = {
            entry.order: entry.match.policy
            for entries in self._candidates(request)
            for entry in entries
            if entry.holds(request)
        }
        return tuple(dict.fromkeys(found[order] for order in sorted(found)))

    def candidates(self, request: Facts) -> int:
        """Give how many entries a request has to look at, at most: the measure of what a decision costs."""
        return sum(map(len, self._candidates(request)))

    def _candidates(self, request: Facts) -> Iterator[list[Entry]]:
        port = request.port
        for folder in self._open(request):
            if folder.by_port and (shelf := folder.by_port.get(port)) is not None:
                yield from shelf.look(request)
            if folder.any_port is not None:
                yield from folder.any_port.look(request)

    def _open(self, request: Facts) -> Iterator[_Folder]:
        for subject, folders in self._exact.items():
            text: Any = request[subject]
            if (folder := folders.get(text)) is not None:
                yield folder
        for (subject, length), folders in self._prefixes.items():
            text = request[subject]
            if (folder := folders.get(text[:length])) is not None:
                yield folder
        for (subject, length), folders in self._suffixes.items():
            text = request[subject]
            if (folder := folders.get(text[-length:])) is not None:
                yield folder
        for (subject, version, shift), numbered in self._networks.items():
            text = request[subject]
            of, number = read_address(text)
            if of == version and (folder := numbered.get(number >> shift)) is not None:
                yield folder
        yield self._anybody

    def _file(self, entry: Entry, ports: frozenset[int] | None) -> None:
        anchor = _anchor_of(entry.conditions)
        if anchor is None:
            self._anybody.file(entry, ports)
            return
        if ports is not None and len(ports) * len(anchor.values) > _MAX_PLACES:
            ports = None
        for place in self._places(anchor):
            place.file(entry, ports)

    def _places(self, anchor: Condition) -> Iterator[_Folder]:
        subject = anchor.subject
        for value in dict.fromkeys(anchor.values):
            if subject in _NETWORKS:
                version, shift, prefix = read_network(value)
                yield self._networks.setdefault((subject, version, shift), defaultdict(_Folder))[prefix]
            elif value.endswith("*"):
                cut = value.removesuffix("*")
                yield self._prefixes.setdefault((subject, len(cut)), defaultdict(_Folder))[cut]
            elif value.startswith("*"):
                cut = value.removeprefix("*")
                yield self._suffixes.setdefault((subject, len(cut)), defaultdict(_Folder))[cut]
            else:
                yield self._exact.setdefault(subject, defaultdict(_Folder))[value]


def _anchor_of(conditions: Sequence[Condition]) -> Condition | None:
    """Give the condition by which a rule is filed: the one that most callers fail."""
    best: Condition | None = None
    best_rank = len(_ANCHORS) * 2
    for condition in conditions:
        if not condition.wanted or condition.subject not in _ANCHORS or "*" in condition.values:
            continue
        if not condition.values:
            continue
        patterns = any("*" in value for value in condition.values)
        rank = _ANCHORS.index(condition.subject) + len(_ANCHORS) * patterns
        if rank < best_rank:
            best, best_rank = condition, rank
    return best


def _ports_of(entry: Entry, clauses: Clauses) -> frozenset[int] | None:
    """Give the ports outside of which the rule cannot match; None when it may at any."""
    ports = _named_ports(entry.conditions)
    if ports is None and clauses.targets:
        named = [_named_ports(conditions) for conditions in clauses.targets]
        if all(each is not None for each in named):
            ports = frozenset().union(*(each for each in named if each is not None))
    return ports


def _named_ports(conditions: Sequence[Condition]) -> frozenset[int] | None:
    for condition in conditions:
        if condition.subject == facts.PORT and condition.wanted:
            return frozenset(map(int, condition.values))
    return None

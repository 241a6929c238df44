"""Policies made ready to be asked: each field becomes one test.

Pure. Semantics are Istio's: within a field any entry may match, all fields of an alternative must, any
alternative of `from` and any of `to` must and every `when`, any rule may. What is absent, as the principal of
a caller without an identity, matches no positive field, ``*`` included, so every ``not…`` field does.

Where a request's HTTP is not read, a rule with fields about it is judged as in Istio, on the safe side: in
ALLOW it never matches; in DENY and AUDIT those fields are taken as matching. Where it will be, request by
request, a connection is judged before: whatever might let a request in does, and what might not refuses none.
Source: Istio, Authorization Policy reference and its generator of Envoy's RBAC filters.
"""

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from registry.model.authorization import Action, Attribute, AuthorizationPolicy, Operation, Rule, Source
from registry.model.authorization import Condition as When
from registry.rules import facts
from registry.rules.facts import Facts
from registry.rules.patterns import (
    Contains,
    header_test,
    host_test,
    network_test,
    path_test,
    port_test,
    text_test,
)
from registry.rules.request import AuthRequest

MakeTest = Callable[[Sequence[str]], Contains]


class Condition(NamedTuple):
    """One field of a policy: holds when `contains` says `wanted` of the fact at `subject`.

    `values` are the field's own, service accounts with their namespace.
    """

    path: str
    subject: int
    wanted: bool
    contains: Contains
    values: tuple[str, ...]
    layer7: bool


Alternatives = tuple[tuple[Condition, ...], ...]


class Form(enum.Enum):
    """In which form rules are asked: about a request, about bytes, or about a connection of requests."""

    READ = enum.auto()
    UNREAD = enum.auto()
    OPENING = enum.auto()

    # That of an Enum is a function in Python, and rules are looked up by their form for each request.
    __hash__ = object.__hash__


_READ: Final = Form.READ


def form_of(request: AuthRequest) -> Form:
    """Say in which form rules are asked about a request."""
    if request.http is not None:
        return _READ
    return Form.OPENING if request.opening else Form.UNREAD


class Clauses(NamedTuple):
    """A rule: any of `callers` and any of `targets` must hold in all conditions, and all of `when`."""

    callers: Alternatives
    targets: Alternatives
    when: tuple[Condition, ...]

    def hold(self, request: Facts) -> bool:
        """Whether the rule matches."""
        return (
            any_holds(self.callers, request)
            and any_holds(self.targets, request)
            and all_hold(self.when, request)
        )


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule in its forms; None never matches. `layer7` are the paths of its fields about HTTP."""

    read: Clauses
    unread: Clauses | None
    opening: Clauses | None
    layer7: tuple[str, ...]

    def clauses(self, form: Form) -> Clauses | None:
        """Give the rule in a form."""
        match form:
            case Form.READ:
                return self.read
            case Form.UNREAD:
                return self.unread
            case Form.OPENING:
                return self.opening


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy and its rules."""

    name: str
    action: Action
    dry_run: bool
    rules: tuple[CompiledRule, ...]

    def match(self, request: Facts, form: Form) -> int | None:
        """Give the number of the first rule that matches; None when none does."""
        for number, rule in enumerate(self.rules):
            clauses = rule.clauses(form)
            if clauses is not None and clauses.hold(request):
                return number
        return None


def any_holds(alternatives: Alternatives, request: Facts) -> bool:
    """Whether an alternative holds in all its conditions, or there is none to hold."""
    return not alternatives or any(all_hold(conditions, request) for conditions in alternatives)


def all_hold(conditions: Sequence[Condition], request: Facts) -> bool:
    """Whether all conditions hold."""
    # Not all(...): a generator would double the cost of the innermost loop.
    for _, subject, wanted, contains, _, _ in conditions:  # noqa: SIM110
        if contains(request[subject]) is not wanted:
            return False
    return True


def compile_policy(policy: AuthorizationPolicy) -> CompiledPolicy:
    """Make a policy ready to be asked."""
    return CompiledPolicy(
        name=policy.name,
        action=policy.spec.action,
        dry_run=policy.dry_run,
        rules=tuple(
            _compile_rule(rule, f"spec.rules[{i}]", policy.spec.action, policy.metadata.namespace)
            for i, rule in enumerate(policy.spec.rules)
        ),
    )


def _compile_rule(rule: Rule, path: str, action: Action, namespace: str) -> CompiledRule:
    clauses = Clauses(
        callers=tuple(
            _given(f"{path}.from[{i}].source", _source_fields(each.source, namespace))
            for i, each in enumerate(rule.from_)
        ),
        targets=tuple(
            _given(f"{path}.to[{i}].operation", _operation_fields(each.operation))
            for i, each in enumerate(rule.to)
        ),
        when=tuple(
            condition
            for i, each in enumerate(rule.when)
            for condition in _given(f"{path}.when[{i}]", _when_fields(each, action, namespace))
        ),
    )
    layer7 = tuple(
        condition.path
        for conditions in (*clauses.callers, *clauses.targets, clauses.when)
        for condition in conditions
        if condition.layer7
    )
    if not layer7:
        return CompiledRule(clauses, clauses, clauses, layer7)
    if action is Action.ALLOW:
        return CompiledRule(clauses, None, _without_layer7(clauses), layer7)
    return CompiledRule(clauses, _without_layer7(clauses), _surely(clauses), layer7)


def _without_layer7(clauses: Clauses) -> Clauses:
    def kept(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
        return tuple(condition for condition in conditions if not condition.layer7)

    return Clauses(clauses.callers, tuple(map(kept, clauses.targets)), kept(clauses.when))


def _surely(clauses: Clauses) -> Clauses | None:
    """Keep what matches whatever the request will be; None when nothing does."""
    targets = tuple(each for each in clauses.targets if not any(condition.layer7 for condition in each))
    if any(condition.layer7 for condition in clauses.when) or (clauses.targets and not targets):
        return None
    return Clauses(clauses.callers, targets, clauses.when)


class _Field(NamedTuple):
    name: str
    values: tuple[str, ...]
    subject: int
    make: MakeTest
    wanted: bool
    layer7: bool = False


def _given(path: str, fields: Iterator[_Field]) -> tuple[Condition, ...]:
    """Keep the fields that the policy has. None at all matches nobody, as in Istio; the parser refuses it."""
    conditions = tuple(
        Condition(
            f"{path}.{field.name}",
            field.subject,
            field.wanted,
            field.make(field.values),
            field.values,
            field.layer7,
        )
        for field in fields
        if field.values
    )
    return conditions or (Condition(path, facts.PRINCIPAL, True, _nothing, (), False),)


def _nothing(_: object) -> bool:
    return False


def _source_fields(source: Source, namespace: str) -> Iterator[_Field]:
    yield _Field("principals", source.principals, facts.PRINCIPAL, text_test, True)
    yield _Field("notPrincipals", source.not_principals, facts.PRINCIPAL, text_test, False)
    yield _Field("namespaces", source.namespaces, facts.NAMESPACE, text_test, True)
    yield _Field("notNamespaces", source.not_namespaces, facts.NAMESPACE, text_test, False)
    accounts, not_accounts = source.service_accounts, source.not_service_accounts
    yield _Field("serviceAccounts", _qualified(accounts, namespace), facts.ACCOUNT, text_test, True)
    yield _Field("notServiceAccounts", _qualified(not_accounts, namespace), facts.ACCOUNT, text_test, False)
    yield _Field("ipBlocks", source.ip_blocks, facts.SOURCE_IP, network_test, True)
    yield _Field("notIpBlocks", source.not_ip_blocks, facts.SOURCE_IP, network_test, False)
    yield _Field("remoteIpBlocks", source.remote_ip_blocks, facts.REMOTE_IP, network_test, True)
    yield _Field("notRemoteIpBlocks", source.not_remote_ip_blocks, facts.REMOTE_IP, network_test, False)


def _operation_fields(operation: Operation) -> Iterator[_Field]:
    yield _Field("ports", operation.ports, facts.PORT, port_test, True)
    yield _Field("notPorts", operation.not_ports, facts.PORT, port_test, False)
    yield _Field("hosts", operation.hosts, facts.HOST, host_test, True, layer7=True)
    yield _Field("notHosts", operation.not_hosts, facts.HOST, host_test, False, layer7=True)
    yield _Field("methods", operation.methods, facts.METHOD, text_test, True, layer7=True)
    yield _Field("notMethods", operation.not_methods, facts.METHOD, text_test, False, layer7=True)
    yield _Field("paths", operation.paths, facts.PATH, path_test, True, layer7=True)
    yield _Field("notPaths", operation.not_paths, facts.PATH, path_test, False, layer7=True)


_BY_ATTRIBUTE: Final[dict[Attribute, tuple[int, MakeTest]]] = {
    Attribute.SOURCE_IP: (facts.SOURCE_IP, network_test),
    Attribute.REMOTE_IP: (facts.REMOTE_IP, network_test),
    Attribute.SOURCE_NAMESPACE: (facts.NAMESPACE, text_test),
    Attribute.SOURCE_PRINCIPAL: (facts.PRINCIPAL, text_test),
    Attribute.SOURCE_SERVICE_ACCOUNT: (facts.ACCOUNT, text_test),
    Attribute.DESTINATION_IP: (facts.DESTINATION_IP, network_test),
    Attribute.DESTINATION_PORT: (facts.PORT, port_test),
    Attribute.CONNECTION_SNI: (facts.SNI, text_test),
}


def _when_fields(condition: When, action: Action, namespace: str) -> Iterator[_Field]:
    """Give the two fields of a condition; of a key that the parser refuses none, so it never matches."""
    values, not_values = condition.values, condition.not_values
    if condition.header is not None:
        header = condition.header

        def make(wanted: bool) -> MakeTest:
            # To let in, all values of a header that came several times must be right; to refuse, one will do.
            every = (action is Action.ALLOW) is wanted
            return lambda patterns: header_test(header, patterns, every=every)

        yield _Field("values", values, facts.HEADERS, make(True), True, layer7=True)
        yield _Field("notValues", not_values, facts.HEADERS, make(False), False, layer7=True)
    elif condition.attribute is not None:
        subject, test = _BY_ATTRIBUTE[condition.attribute]
        if subject == facts.ACCOUNT:
            values, not_values = _qualified(values, namespace), _qualified(not_values, namespace)
        yield _Field("values", values, subject, test, True)
        yield _Field("notValues", not_values, subject, test, False)


def _qualified(accounts: tuple[str, ...], namespace: str) -> tuple[str, ...]:
    return tuple(account if "/" in account else f"{namespace}/{account}" for account in accounts)

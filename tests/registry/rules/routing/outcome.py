"""What came of a request, however it was made, held against what a case expects."""

from collections import Counter
from dataclasses import dataclass, field

from registry.rules.routing import Fields
from tests.registry.rules.routing.cases import Case, Message, port_of


@dataclass
class Outcome:
    """Where a request went (``namespace/name:port``), as what, and what the caller got.

    `rule` is not known where only the traffic is seen.
    """

    status: int
    backend: str = ""
    rule: str | None = None
    authority: bytes = b""
    target: bytes = b""
    fields: Fields = field(default_factory=list)
    answer: Fields = field(default_factory=list)
    mirrors: tuple[str, ...] = ()


def named(backend: str) -> str:
    """Give a backend as outcomes have it; a status stays as it is."""
    if backend.isdecimal():
        return backend
    service, port = port_of(backend)
    return f"{service}:{port}"


def assert_outcome(case: Case, outcome: Outcome) -> None:
    """Hold one outcome against a case, but for shares and mirrors."""
    if case.backend is not None:
        assert (outcome.status, outcome.backend) == (200, named(case.backend))
    if case.status is not None:
        assert (outcome.status, outcome.backend) == (case.status, "")
    if case.rule is not None and outcome.rule is not None:
        assert outcome.rule == case.rule
    _assert_message(case.sees, outcome.authority, outcome.target, outcome.fields)
    _assert_message(case.answer, b"", b"", outcome.answer)


def assert_shares(reached: Counter[str], expected: dict[str, float], *, draws: int, within: float) -> None:
    """Hold how often each backend, or status, was reached against the shares that were expected."""
    shares = {named(backend): share for backend, share in expected.items()}
    assert reached.keys() <= shares.keys()
    for name, share in shares.items():
        if share in (0, 1):
            assert reached[name] == share * draws
        else:
            assert abs(reached[name] / draws - share) <= within, (name, reached[name])


def _assert_message(expected: Message, authority: bytes, target: bytes, fields: Fields) -> None:
    joined: dict[str, str] = {}
    for name, value in fields:
        key = name.decode()
        joined[key] = f"{joined[key]},{value.decode()}" if key in joined else value.decode()
    assert {name: joined.get(name) for name in expected.headers} == expected.headers
    assert not joined.keys() & set(expected.without)
    if expected.host is not None:
        assert authority.decode() == expected.host
    if expected.path is not None:
        assert target.decode() == expected.path

"""Requests and answers as bytes, good and bad, and what must become of them: one list for all levels of test.

``<text*n>`` in the bytes stands for `n` times the text. A case of requests gives what is taken, one after the
other, and then what is refused, if anything: ``status reason``.
"""

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
# Behind which the cases of chunks stand.
CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
_TIMES = re.compile(r"<([^<>]+?)\*(\d+)>", re.DOTALL)

Pairs = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Request:
    """What is taken of a request; None stands for whatever it is."""

    method: bytes
    target: bytes
    authority: bytes
    body: bytes = b""
    version: str | None = None
    scheme: bytes = b"http"
    fields: Pairs | None = None
    trailers: Pairs = field(default_factory=list)
    # Besides, what the case says of its head: keep_alive, upgrade, expects_continue, takes_trailers, length.
    more: dict[str, Any] = field(default_factory=dict)
    # Its body never ends.
    broken: bool = False


@dataclass(frozen=True)
class RequestCase:
    """What a caller sends; `refused` is ``status reason``, or empty."""

    name: str
    sent: bytes
    requests: list[Request]
    refused: str


@dataclass(frozen=True)
class Answer:
    """What is taken of an answer; None stands for whatever it is, but for a `length` that is in `more`."""

    status: int
    body: bytes = b""
    fields: Pairs | None = None
    trailers: Pairs = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    broken: bool = False


@dataclass(frozen=True)
class AnswerCase:
    """What a workload sends before it ends; `refused` is a reason, or empty."""

    name: str
    method: bytes
    sent: bytes
    answers: list[Answer]
    refused: str
    broken: bool


@cache
def request_cases() -> list[RequestCase]:
    """Give all cases of requests."""
    cases = []
    for name in ("start_lines", "hosts", "fields", "lengths", "chunks", "connections"):
        for each in _load(name):
            before = CHUNKED_POST if "chunks" in each else b""
            cases.append(
                RequestCase(
                    name=f"{name}: {each['name']}",
                    sent=before + _bytes(each["chunks"] if before else each["bytes"]),
                    requests=[_request(one) for one in each.get("requests", ())],
                    refused=each.get("refused", ""),
                )
            )
    return cases


@cache
def answer_cases() -> list[AnswerCase]:
    """Give all cases of answers."""
    return [
        AnswerCase(
            name=each["name"],
            method=each.get("method", "GET").encode(),
            sent=_bytes(each["bytes"]),
            answers=[_answer(one) for one in each.get("answers", ())],
            refused=each.get("refused", ""),
            broken=each.get("broken", False),
        )
        for each in _load("answers")
    ]


def _load(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = yaml.safe_load((HERE / f"{name}.yaml").read_text())
    return loaded


def _bytes(text: str) -> bytes:
    return _TIMES.sub(lambda found: found[1] * int(found[2]), text).encode("latin-1")


def _pairs(said: list[list[str]] | None) -> Pairs | None:
    return None if said is None else [(_bytes(name), _bytes(value)) for name, value in said]


def _request(said: dict[str, Any]) -> Request:
    more = dict(said)
    method, target, authority = _bytes(more.pop("line")).split(b" ")
    return Request(
        method,
        target,
        authority,
        body=_bytes(more.pop("body", "")),
        version=more.pop("version", None),
        scheme=_bytes(more.pop("scheme", "http")),
        fields=_pairs(more.pop("fields", None)),
        trailers=_pairs(more.pop("trailers", None)) or [],
        broken=more.pop("broken", False),
        more=more,
    )


def _answer(said: dict[str, Any]) -> Answer:
    more = dict(said)
    return Answer(
        more.pop("status"),
        body=_bytes(more.pop("body", "")),
        fields=_pairs(more.pop("fields", None)),
        trailers=_pairs(more.pop("trailers", None)) or [],
        broken=more.pop("broken", False),
        more=more,
    )

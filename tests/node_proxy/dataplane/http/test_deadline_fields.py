"""Deadlines in headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.http.deadline_fields import (
    parse_grpc_timeout,
    read_deadline,
    render_grpc_timeout,
    with_deadline,
)
from node_proxy.dataplane.http.message import Fields

_GRPC = (b"content-type", b"application/grpc")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"250m", 0.25),
        (b"10u", 10e-6),
        (b"99999999n", 0.099999999),
        (b"", None),
        (b"1", None),
        (b"1s", None),
        (b"123456789m", None),
        (b"-1S", None),
        (b"1.5S", None),
        (b" 1S", None),
        (b"1S\n", None),
    ],
)
def test_grpc_timeout(value: bytes, seconds: float | None) -> None:
    """A timeout has one to eight digits and a unit, and nothing else."""
    found = parse_grpc_timeout(value)
    assert found is None if seconds is None else found == pytest.approx(seconds)


@given(st.floats(0.001, 1e9))
def test_rendered(seconds: float) -> None:
    """What is sent on is never more than what is left, and hardly less."""
    found = parse_grpc_timeout(render_grpc_timeout(seconds))
    assert found is not None
    assert found <= seconds * (1 + 1e-12)
    assert found >= seconds * 0.99 or seconds > 1e8


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], None),
        ([(b"nodemesh-timeout", b"1500")], 1.5),
        ([(b"grpc-timeout", b"2S")], 2.0),
        ([(b"nodemesh-timeout", b"1500"), (b"grpc-timeout", b"1S")], 1.0),
        ([(b"nodemesh-timeout", b"100"), (b"nodemesh-timeout", b"50")], 0.05),
        ([(b"nodemesh-timeout", b"soon")], None),
        ([(b"nodemesh-timeout", b"1e3"), (b"grpc-timeout", b"1S")], 1.0),
        ([(b"nodemesh-timeout", b"123456789")], None),
    ],
)
def test_read(fields: Fields, expected: float | None) -> None:
    """The smallest of what the caller says counts, and what is out of form says nothing."""
    assert read_deadline(fields) == expected


def test_written() -> None:
    """What is left takes the place of what the caller said, each kind of request in its words."""
    said = [(b"nodemesh-timeout", b"9"), (b"a", b"b"), (b"grpc-timeout", b"9S")]
    assert with_deadline(said, 1.2345) == [(b"a", b"b"), (b"nodemesh-timeout", b"1234")]
    assert with_deadline([_GRPC, *said], 1.5) == [_GRPC, (b"a", b"b"), (b"grpc-timeout", b"1500000u")]


def test_nothing_written() -> None:
    """Without a deadline nothing is said, whatever the caller said out of form."""
    assert with_deadline([(b"nodemesh-timeout", b"soon"), (b"a", b"b")], None) == [(b"a", b"b")]


def test_never_nothing_left() -> None:
    """A deadline that is as good as over is still one."""
    assert read_deadline(with_deadline([], 0.0)) == 0.001

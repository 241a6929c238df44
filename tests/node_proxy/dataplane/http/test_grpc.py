"""What the proxy knows of gRPC."""

import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.http.grpc import (
    MAX_MESSAGE,
    GrpcStatus,
    is_grpc,
    render_message,
    status_in,
    status_of_http,
)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc; charset=utf-8", True),
        (b"Application/gRPC", True),
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/grpcish", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_content_type(kind: bytes, expected: bool) -> None:
    """The content type alone tells gRPC, and gRPC-Web is HTTP."""
    assert is_grpc([(b"content-type", kind)]) is expected


def test_no_content_type() -> None:
    """What says no content type is no gRPC."""
    assert not is_grpc([(b"te", b"trailers")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"0", GrpcStatus.OK),
        (b"14", GrpcStatus.UNAVAILABLE),
        (b"17", GrpcStatus.UNKNOWN),
        (b"-1", GrpcStatus.UNKNOWN),
        (b"", GrpcStatus.UNKNOWN),
        (b"000000", GrpcStatus.UNKNOWN),
    ],
)
def test_status(text: bytes, expected: GrpcStatus) -> None:
    """What is no status is UNKNOWN."""
    assert status_in([(b"grpc-status", text)]) is expected


def test_no_status() -> None:
    """An answer without trailers of gRPC has no status."""
    assert status_in([(b"x", b"0")]) is None


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, 13), (403, 7), (404, 12), (429, 8), (502, 14), (503, 14), (504, 4), (418, 2)],
)
def test_mapping(status: int, expected: int) -> None:
    """Answers of the mesh become the statuses that gRPC clients act upon."""
    assert status_of_http(status) == expected


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
def test_message_read_back(text: str) -> None:
    """A client that decodes a message has the text again, and none of it breaks the header."""
    value = render_message(text)
    assert all(0x20 <= byte <= 0x7E for byte in value)
    assert urllib.parse.unquote_to_bytes(value) == text.strip().encode()[:MAX_MESSAGE]

"""What of a header crosses the mesh."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.http.hygiene import (
    answer_at_destination,
    clean_trailers,
    request_at_destination,
    request_at_source,
)
from node_proxy.dataplane.http.message import Field, Fields

_ALICE = "spiffe://nodemesh.local/ns/prod/sa/web"
# All the ways in which a caller may write a name that a workload takes for the mesh's, or a proxy's.
_FORGED = [
    (b"nodemesh-caller", b"spiffe://nodemesh.local/ns/prod/sa/root"),
    (b"nodemesh_caller", b"spiffe://nodemesh.local/ns/prod/sa/root"),
    (b"nodemesh.caller", b"spiffe://nodemesh.local/ns/prod/sa/root"),
    (b"nodemesh~caller", b"spiffe://nodemesh.local/ns/prod/sa/root"),
    (b"nodemesh-reason", b"denied"),
    (b"nodemesh-route", b"prod/other"),
    (b"nodemesh-anything", b"x"),
]
_FOR_OTHERS = [
    (b"forwarded", b"for=10.9.9.9"),
    (b"x-forwarded-for", b"10.9.9.9"),
    (b"x_forwarded_for", b"10.9.9.9"),
    (b"x-forwarded_for", b"10.9.9.9"),
    (b"x.forwarded.for", b"10.9.9.9"),
    (b"x-forwarded-host", b"evil"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-client-cert", b"By=evil"),
    (b"x-real-ip", b"10.9.9.9"),
]


def _at_destination(
    fields: Fields, *, identity: str = _ALICE, in_mesh: bool = True, trusted: bool = False
) -> Fields:
    return request_at_destination(
        fields,
        authority=b"api:8080",
        address="10.0.0.7",
        identity=identity,
        in_mesh=in_mesh,
        trusted=trusted,
    )


_OWN = [
    (b"forwarded", b'for=10.0.0.7;host="api:8080";proto=http'),
    (b"x-forwarded-for", b"10.0.0.7"),
    (b"x-forwarded-proto", b"http"),
    (b"x-forwarded-host", b"api:8080"),
    (b"nodemesh-caller", _ALICE.encode()),
]


class TestSource:
    def test_passes(self) -> None:
        """The workload's own fields go on as they are, in order, repeated ones too."""
        said = [(b"accept", b"a"), (b"x-forwarded-for", b"10.1.1.1"), (b"accept", b"b")]
        assert request_at_source(said, route="", attempt=1) == said

    @pytest.mark.parametrize("forged", _FORGED)
    def test_forged(self, forged: Field) -> None:
        """No workload speaks for the mesh."""
        assert request_at_source([forged], route="", attempt=1) == []

    def test_timeout(self) -> None:
        """How long it waits is for the workload to say."""
        said = [(b"nodemesh-timeout", b"100")]
        assert request_at_source(said, route="", attempt=1) == said

    def test_route_and_attempt(self) -> None:
        """The destination learns the route, and which try it is from the second on."""
        assert request_at_source([], route="prod/api", attempt=2) == [
            (b"nodemesh-route", b"prod/api"),
            (b"nodemesh-attempt", b"2"),
        ]


class TestDestination:
    def test_sets(self) -> None:
        """The workload learns who called, from where, and for which name."""
        assert _at_destination([]) == _OWN

    @pytest.mark.parametrize("forged", [*_FORGED, *_FOR_OTHERS])
    def test_forged(self, forged: Field) -> None:
        """What an untrusted caller says of itself or of others is thrown away."""
        assert _at_destination([forged]) == _OWN

    @pytest.mark.parametrize("forged", _FORGED)
    def test_forged_by_trusted(self, forged: Field) -> None:
        """Trust in what a caller says of others is none in what it says for the mesh."""
        assert _at_destination([forged], trusted=True) == _OWN

    def test_trusted(self) -> None:
        """What a trusted caller says of whom it calls for is continued, not replaced."""
        said = [
            (b"forwarded", b"for=198.51.100.1"),
            (b"x-forwarded-for", b"198.51.100.1"),
            (b"x-forwarded-for", b"198.51.100.2"),
            (b"x-forwarded-proto", b"https"),
            (b"x-forwarded-host", b"shop.example"),
        ]
        found = dict(_at_destination(said, trusted=True))
        assert found[b"forwarded"] == b'for=198.51.100.1, for=10.0.0.7;host="api:8080";proto=http'
        assert found[b"x-forwarded-for"] == b"198.51.100.1, 198.51.100.2, 10.0.0.7"
        assert found[b"x-forwarded-proto"] == b"https"
        assert found[b"x-forwarded-host"] == b"shop.example"

    def test_second_spelling_by_trusted(self) -> None:
        """A list under another spelling would not be continued, so it is thrown away even then."""
        found = _at_destination([(b"x_forwarded_for", b"10.9.9.9")], trusted=True)
        assert found == _OWN

    def test_plaintext_is_never_trusted(self) -> None:
        """Who proved no identity is trusted in nothing, and has no name."""
        found = dict(_at_destination(_FOR_OTHERS, identity="", in_mesh=False, trusted=True))
        assert found[b"x-forwarded-for"] == b"10.0.0.7"
        assert b"nodemesh-caller" not in found

    def test_attempt(self) -> None:
        """A try is counted by proxies of the mesh only, and the route is not for workloads."""
        said = [(b"nodemesh-attempt", b"2"), (b"nodemesh-route", b"prod/api")]
        assert _at_destination(said) == [said[0], *_OWN]
        assert _at_destination(said, in_mesh=False) == _OWN

    def test_endless_list(self) -> None:
        """A list that has grown without end begins anew."""
        found = dict(_at_destination([(b"x-forwarded-for", b"1.1.1.1, " * 1000)], trusted=True))
        assert found[b"x-forwarded-for"] == b"10.0.0.7"

    def test_ipv6(self) -> None:
        """RFC 7239 section 6 wants brackets and quotes around an address of IPv6."""
        found = request_at_destination(
            [], authority=b"", address="2001:db8::1", identity="", in_mesh=False, trusted=False
        )
        assert found == [
            (b"forwarded", b'for="[2001:db8::1]";proto=http'),
            (b"x-forwarded-for", b"2001:db8::1"),
            (b"x-forwarded-proto", b"http"),
        ]

    @given(
        st.lists(
            st.tuples(
                st.text("nodemesh-_xforwarded", max_size=24).map(str.encode),
                st.text("abc", max_size=4).map(str.encode),
            )
        )
    )
    def test_one_voice(self, said: Fields) -> None:
        """Whatever is said, each name that the mesh vouches for is there once, under one spelling."""
        found = [name.replace(b"_", b"-") for name, _ in _at_destination(said)]
        for name, _ in _OWN:
            assert found.count(name) == 1


def test_answers() -> None:
    """No workload gives the mesh's reasons."""
    said = [(b"server", b"x"), (b"nodemesh-reason", b"denied"), (b"Nodemesh_reason".lower(), b"denied")]
    assert answer_at_destination(said) == [(b"server", b"x")]


@pytest.mark.parametrize(
    "name",
    [
        b"content-length",
        b"transfer-encoding",
        b"host",
        b"authorization",
        b"cookie",
        b"set-cookie",
        b"nodemesh-caller",
        b"x-forwarded-for",
        b"trailer",
    ],
)
def test_trailers(name: bytes) -> None:
    """A trailer says nothing that the header decides."""
    kept = [(b"grpc-status", b"0"), (b"x-checksum", b"1")]
    assert clean_trailers([kept[0], (name, b"1"), kept[1]]) == kept

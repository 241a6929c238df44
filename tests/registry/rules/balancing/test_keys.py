import pytest

from registry.model.backend_policy import BalancingPolicy, HashKey, KeyType, LoadBalancing, StickySession
from registry.rules.balancing.keys import NO_KEYS, Keys, find_keys, session_cookie, token_of
from tests.registry.rules.balancing.endpoints import Endpoint, Service, names

HEADER = HashKey(type=KeyType.HEADER, name="X-User")
COOKIE = HashKey(type=KeyType.COOKIE, name="session")
SOURCE = HashKey(type=KeyType.SOURCE)


def hashed(key: HashKey) -> LoadBalancing:
    """Give a ring that goes by a key."""
    return LoadBalancing(policy=BalancingPolicy.RING_HASH, hash_on=key)


def sticky(key: HashKey, ttl: str | None = None) -> LoadBalancing:
    """Give sticky sessions by a key."""
    return LoadBalancing(sticky_session=StickySession(key=key, ttl=ttl))


class TestFind:
    @pytest.mark.parametrize(
        ("key", "fields", "found"),
        [
            (HEADER, [(b"x-user", b"ann")], b"ann"),
            (HEADER, [(b"x-user", b"ann"), (b"x-user", b"bob")], b"ann,bob"),
            (HEADER, [(b"x-other", b"ann")], None),
            (HEADER, [(b"x-user", b"")], None),
            (COOKIE, [(b"cookie", b"a=b; session=abc; c=d")], b"abc"),
            (COOKIE, [(b"cookie", b"a=b"), (b"cookie", b"session=abc")], b"abc"),
            (COOKIE, [(b"cookie", b'session="abc"')], b"abc"),
            (COOKIE, [(b"cookie", b"session=first; session=second")], b"first"),
            (COOKIE, [(b"cookie", b"xsession=abc; sessions=abc; Session=abc; session")], None),
            (COOKIE, [(b"cookie", b";;; =; session=")], None),
            (COOKIE, [], None),
            (SOURCE, [], b"10.0.0.1"),
        ],
    )
    def test_hash(self, key: HashKey, fields: list[tuple[bytes, bytes]], found: bytes | None) -> None:
        """The key is the named header, the named cookie, or who calls."""
        assert find_keys(hashed(key), fields, b"10.0.0.1").hashed == found

    def test_nothing_is_wanted(self) -> None:
        """Where no key decides none is looked for."""
        assert find_keys(LoadBalancing(), [(b"cookie", b"session=abc")], b"10.0.0.1") is NO_KEYS

    def test_session_by_header_goes_before_the_hash(self) -> None:
        """A session's header decides if it is there, otherwise the hash's."""
        both = LoadBalancing(hash_on=SOURCE, sticky_session=StickySession(key=HEADER))
        assert find_keys(both, [(b"x-user", b"ann")], b"10.0.0.1").hashed == b"ann"
        assert find_keys(both, [], b"10.0.0.1").hashed == b"10.0.0.1"

    def test_session_by_cookie_beside_a_hash(self) -> None:
        """A session's cookie is apart from the hash: without it the hash decides."""
        both = LoadBalancing(hash_on=SOURCE, sticky_session=StickySession(key=COOKIE))
        found = find_keys(both, [(b"cookie", b"session=abc")], b"10.0.0.1")
        assert (found.hashed, found.sticky) == (b"10.0.0.1", b"abc")


class TestCookie:
    def test_made_for_the_endpoint(self) -> None:
        """A caller without the cookie gets one that leads back, for as long as the policy says."""
        cookie = session_cookie(sticky(COOKIE, "1h"), "10.0.0.1:80", NO_KEYS)
        token = token_of("10.0.0.1:80")
        assert cookie == b"session=%s; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax" % token

    def test_without_an_end(self) -> None:
        """Without a life the cookie lives as long as the browser."""
        cookie = session_cookie(sticky(COOKIE), "10.0.0.1:80", NO_KEYS)
        assert cookie is not None
        assert b"Max-Age" not in cookie

    def test_not_again(self) -> None:
        """A caller whose cookie is right gets none; one that was led elsewhere gets the new one."""
        keys = Keys(sticky=token_of("10.0.0.1:80"))
        assert session_cookie(sticky(COOKIE), "10.0.0.1:80", keys) is None
        assert session_cookie(sticky(COOKIE), "10.0.0.2:80", keys) is not None

    @pytest.mark.parametrize("balancing", [LoadBalancing(), sticky(HEADER), sticky(SOURCE), hashed(COOKIE)])
    def test_of_no_other_policy(self, balancing: LoadBalancing) -> None:
        """Only a session by cookie makes cookies; that of a hash is the callers' own."""
        assert session_cookie(balancing, "10.0.0.1:80", NO_KEYS) is None

    def test_says_no_address(self) -> None:
        """The token says nothing of where the endpoint is."""
        assert token_of("10.0.0.1:80") != token_of("10.0.0.1:81")
        assert b"10" not in bytes.fromhex(token_of("10.0.0.1:80").decode())


class TestSticky:
    def test_leads_to_its_endpoint(self) -> None:
        """The cookie leads to its endpoint, however loaded that is."""
        service = Service(*names(5), balancing=sticky(COOKIE))
        service.begin(Endpoint("c"), 1000)
        keys = Keys(sticky=token_of("c:80"))
        assert service.chosen(draws=200, key=lambda _: keys) == {"c"}

    def test_drained_keeps_its_sessions(self) -> None:
        """An endpoint that is drained takes no new callers but keeps those that it has."""
        service = Service(*names(2), Endpoint("old", weight=0), balancing=sticky(COOKIE))
        assert service.chosen(draws=200) == {"a", "b"}
        assert service.chosen(draws=200, key=lambda _: Keys(sticky=token_of("old:80"))) == {"old"}

    @pytest.mark.parametrize("token", [b"", b"nonsense", token_of("gone:80"), token_of("down:80")])
    def test_leads_nowhere(self, token: bytes) -> None:
        """A token of an endpoint that fails, has gone, or never was is as good as none."""
        service = Service(*names(2), Endpoint("down", healthy=False), balancing=sticky(COOKIE))
        assert service.chosen(draws=200, key=lambda _: Keys(sticky=token)) == {"a", "b"}

    def test_retry_goes_elsewhere(self) -> None:
        """When the session's endpoint has failed a request, another takes it."""
        service = Service(*names(3), balancing=sticky(COOKIE))
        keys = Keys(sticky=token_of("c:80"))
        assert service.chosen(Endpoint("c"), draws=200, key=lambda _: keys) == {"a", "b"}

    def test_cookie_means_nothing_to_others(self) -> None:
        """Without a session by cookie no cookie chooses an endpoint."""
        service = Service(*names(3))
        assert len(service.chosen(draws=200, key=lambda _: Keys(sticky=token_of("c:80")))) == 3

    @pytest.mark.parametrize("key", [HEADER, SOURCE])
    def test_by_header_or_source(self, key: HashKey) -> None:
        """A session by header or source keeps its endpoint, also when that has more than its share."""
        service = Service(*names(5), balancing=sticky(key))
        chosen = set()
        for _ in range(200):
            endpoint = service.choose(keys=Keys(b"ann"))
            assert endpoint is not None
            service.begin(endpoint)
            chosen.add(endpoint)
        assert len(chosen) == 1

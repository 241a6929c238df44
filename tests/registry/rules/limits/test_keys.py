import pytest

from registry.model.backend_policy import LimitKey, LimitKeyType
from registry.rules.limits.keys import key_of, limit_of, mesh_name

BY_TENANT = LimitKey(type=LimitKeyType.HEADER, header="X-Tenant")


@pytest.mark.parametrize(
    ("key", "caller", "headers", "text"),
    [
        (LimitKey(), "spiffe://a/ns/b/sa/c", {"x-tenant": "1"}, ""),
        (LimitKey(type=LimitKeyType.CALLER), "spiffe://a/ns/b/sa/c", {}, "spiffe://a/ns/b/sa/c"),
        (LimitKey(type=LimitKeyType.CALLER), "", {}, ""),
        (BY_TENANT, "spiffe://a/ns/b/sa/c", {"x-tenant": "acme"}, "acme"),
        (BY_TENANT, "spiffe://a/ns/b/sa/c", {"x-other": "acme"}, ""),
    ],
)
def test_key(key: LimitKey, caller: str, headers: dict[str, str], text: str) -> None:
    """A request is counted under what the limit goes by; those that lack it count as one."""
    assert key_of(key, caller, headers) == text


def test_mesh_names() -> None:
    """A count's name tells its limit and not its key, and two keys have two names."""
    name = mesh_name("default/api/all", "secret")
    assert limit_of(name) == "default/api/all"
    assert "secret" not in name
    assert name != mesh_name("default/api/all", "Secret")
    assert name == mesh_name("default/api/all", "secret")


def test_any_text_has_a_name() -> None:
    """A header whose bytes are no text has a count like any other."""
    assert mesh_name("default/api/all", "\udcff") != mesh_name("default/api/all", "")

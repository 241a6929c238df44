"""What one end says of a tunnel that it will not have."""

import pytest

from node_proxy.tunnel.events import Established, PeerDraining
from node_proxy.tunnel.http2 import INADEQUATE_SECURITY, MAX_WHY, Role, refusal
from tests.fakes.link import End


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(
    "why", ["expired: since noon", "x" * 2000, "wéb"], ids=["short", "long", "not ASCII"]
)
def test_refusal_is_heard(role: Role, why: str) -> None:
    """Either end's refusal is HTTP/2 that the other understands, its reason in ASCII and not too long."""
    other = End(Role.SERVER if role is Role.CLIENT else Role.CLIENT)
    heard = other.receive(refusal(role, why))
    expected = why.encode("ascii", "backslashreplace")[:MAX_WHY].decode()
    assert heard == [Established(), PeerDraining(0, INADEQUATE_SECURITY, expected)]

"""How tests make tokens and let nodes join."""

from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca.enrolment import Joined, Registrar, Requests
from tests.registry.ca.material import TRUST_DOMAIN, make_csr, new_key

WEB = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/web"
API = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/api"
HOUR = timedelta(hours=1)


async def new_token(
    registrar: Registrar, pattern: str = "web-*", *names: str, uses: int = 1, require_approval: bool = False
) -> str:
    """Make a token; gives its text."""
    made = await registrar.create_token(
        pattern=pattern,
        identities=names or ("default/web",),
        ttl=HOUR,
        uses=uses,
        require_approval=require_approval,
    )
    return str(made.text)


async def join(
    registrar: Registrar, token: str, node: str = "web-1", *, key: ec.EllipticCurvePrivateKey | None = None
) -> Joined:
    """Join, and be let in."""
    joined = await registrar.join(token=token, node=node, requests=Requests(make_csr(key or new_key())))
    assert isinstance(joined, Joined)
    return joined

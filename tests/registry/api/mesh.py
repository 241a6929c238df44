"""A mesh whose keys the tests hold, so that they can write what nodes and registry would sign."""

from dataclasses import replace

from registry.ca.authority import Authority, found_with
from registry.ca.keyring import IssuingKey, put_root
from registry.store.base import KeyIs, Store
from tests.fakes.signers import MeshKeys
from tests.registry.ca.material import KEK, START, TRUST_DOMAIN, SetClock

MESH = MeshKeys(TRUST_DOMAIN, now=START)


async def found_mesh(store: Store, clock: SetClock) -> Authority:
    """Found the mesh in `store` and open its authority."""
    founding = found_with(
        MESH.root.certificate, IssuingKey(MESH.issuing), trust_domain=TRUST_DOMAIN, kek=KEK, now=START
    )
    root = put_root(MESH.root, kek=KEK)
    founding = replace(
        founding, conditions=(*founding.conditions, KeyIs(root.key, 0)), writes=(*founding.writes, root)
    )
    assert await store.commit(founding.conditions, founding.writes) is not None
    return await Authority.load(store, kek=KEK, clock=clock)


def signed(place: str, value: bytes) -> bytes:
    """Sign a value as whoever may write to `place`; it need not be canonical."""
    folder, _, rest = place.partition("/")
    signer = MESH.node(rest.partition("/")[0]) if folder == "nodes" else MESH.authority
    return signer.sign(place, value)

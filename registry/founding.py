"""Founding a mesh: what `nodemesh-registry init` makes, once, in etcd and on this host."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from registry.api.auth import new_administrator
from registry.ca.authority import make_founding
from registry.ca.sealing import Kek
from registry.clock import Clock
from registry.errors import ConfigError
from registry.model.mesh import TRUST_DOMAIN_PATTERN, Mesh, MeshSpec
from registry.model.parse import parse_as, render
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.private_files import remove_file, write_private
from registry.store import keys
from registry.store.base import KeyIs, Put, Store

ADMINISTRATOR = "admin"

_FOUNDED = "this etcd holds a mesh already; run `nodemesh-registry serve`, or give --etcd-prefix for another"


@dataclass(frozen=True, slots=True)
class Founded:
    """A new mesh: its root's fingerprint, and where its administrator's configuration is."""

    fingerprint: str
    admin_config: Path


async def is_founded(store: Store) -> bool:
    """Whether a mesh was founded in this store."""
    return await store.get(keys.render(keys.BundleKey())) is not None


async def found(
    store: Store,
    *,
    trust_domain: str,
    make_kek: Callable[[], Kek],
    server: str,
    admin_config: Path,
    clock: Clock,
) -> Founded:
    """Make the root, the trust bundle, the mesh's settings and the first administrator, all or nothing.

    `make_kek` is called once it is known that there is no mesh yet, so that a mistaken second founding leaves
    no key that seals nothing.

    Raises:
        ConfigError: there is a mesh already, its settings speak of another trust domain, this one is
            malformed, or `admin_config` exists or cannot be written.
    """
    if not re.match(TRUST_DOMAIN_PATTERN, trust_domain):
        raise ConfigError(
            f"trust domain {trust_domain!r}: write lower-case letters, digits, dashes and underscores in "
            "parts of at most 63 with dots between them, 122 in all"
        )
    if await is_founded(store):
        raise ConfigError(_FOUNDED)
    founding = make_founding(trust_domain=trust_domain, kek=make_kek(), now=clock())
    token, administrator = new_administrator(ADMINISTRATOR)
    mesh_condition, mesh_writes = await _mesh(store, trust_domain)
    config = _admin_config(server=server, token=token, ca_pem=founding.root_pem)
    # Written before the commit: the token cannot be had again, and a file too many is easily removed.
    write_private(admin_config, config)
    revision = await store.commit(
        [*founding.conditions, KeyIs(administrator.key, 0), mesh_condition],
        [*founding.writes, administrator, *mesh_writes],
    )
    if revision is None:
        remove_file(admin_config)
        raise ConfigError(_FOUNDED)
    return Founded(founding.fingerprint, admin_config)


async def _mesh(store: Store, trust_domain: str) -> tuple[KeyIs, tuple[Put, ...]]:
    """Give the settings to write, none if an operator wrote fitting ones before."""
    key = keys.render(keys.MeshKey())
    if (existing := await store.get(key)) is not None:
        written = parse_as(Mesh, existing.value, where=key).spec.trust_domain
        if written != trust_domain:
            raise ConfigError(
                f"{key} says trustDomain {written!r}; give --trust-domain {written} or change it"
            )
        return KeyIs(key, existing.revision), ()
    mesh = Mesh(
        api_version=NODEMESH,
        kind=Mesh.KIND,
        metadata=Metadata(name="mesh", namespace=ROOT_NAMESPACE),
        spec=MeshSpec(trust_domain=trust_domain),
    )
    return KeyIs(key, 0), (Put(key, render(mesh)),)


def _admin_config(*, server: str, token: str, ca_pem: str) -> str:
    # A JSON string is a TOML string.
    return f'server = {json.dumps(server)}\ntoken = {json.dumps(token)}\nca_pem = """\n{ca_pem}"""\n'

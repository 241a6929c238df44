"""Founding a mesh: what `nodemesh-registry init` makes, once, in etcd and on this host."""

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from registry.api.auth import new_administrator
from registry.ca.authority import Founding, found_with, make_founding
from registry.ca.external import NO_PENDING, External, accept, find_pending
from registry.ca.sealing import Kek
from registry.clock import Clock
from registry.errors import ConfigError
from registry.model.mesh import TRUST_DOMAIN_PATTERN, Mesh, MeshSpec
from registry.model.parse import parse_as, render
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.private_files import remove_file, write_private
from registry.store import keys
from registry.store.base import Delete, KeyIs, Put, Store

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
    make_kek: Callable[[], Awaitable[Kek]],
    server: str,
    admin_config: Path,
    clock: Clock,
    external: External | None = None,
) -> Founded:
    """Make root and intermediate, trust bundle, settings and the first administrator, all or nothing.

    With `external` the root is an operator's, which has certified the intermediate that waits in the store.

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
    kek = await make_kek()
    if external is None:
        founding = make_founding(trust_domain=trust_domain, kek=kek, now=clock())
    else:
        founding = await _found_external(store, external, trust_domain=trust_domain, kek=kek, now=clock())
    token, administrator = new_administrator(ADMINISTRATOR, now=clock())
    mesh_condition, mesh_writes = await _mesh(store, trust_domain)
    config = _admin_config(server=server, token=token, ca_pem=founding.root_pem)
    # Written before the commit: the token cannot be had again, and a file too many is easily removed.
    write_private(admin_config, config)
    revision = await store.commit(
        [*founding.conditions, KeyIs(administrator.key, 0), mesh_condition],
        [*founding.writes, *(founding.sign(write) for write in (administrator, *mesh_writes))],
    )
    if revision is None:
        remove_file(admin_config)
        raise ConfigError(_FOUNDED)
    return Founded(founding.fingerprint, admin_config)


async def _found_external(
    store: Store, external: External, *, trust_domain: str, kek: Kek, now: datetime
) -> Founding:
    pending = await find_pending(store, kek=kek)
    if pending is None:
        raise ConfigError(NO_PENDING)
    root, issuing = accept(
        pending.key,
        root_pem=external.root_pem,
        chain_pem=external.chain_pem,
        trust_domain=trust_domain,
        now=now,
    )
    founding = found_with(root, issuing, trust_domain=trust_domain, kek=kek, now=now)
    return replace(
        founding,
        conditions=(*founding.conditions, pending.unchanged),
        writes=(*founding.writes, Delete(pending.unchanged.key)),
    )


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

"""Signs what a registry wrote that signed nothing yet: once, before the mesh's first signed trust bundle."""

from typing import Final

import structlog

from registry.errors import InvalidResource
from registry.model.parse import render
from registry.model.signature import BadSignature, ResourceSigner, Unsigned, verify
from registry.store.base import KeyIs, KeyValue, Put, Store
from registry.store.codec import parse_at

# What the authority signs and only registries write; the trust bundle is written by whoever changes it.
VOUCHED: Final = ("administrators/", "enrolments/", "status/", "tokens/")

_log = structlog.get_logger()


async def adopt(store: Store, signer: ResourceSigner) -> None:
    """Sign what is not signed; what is signed already, well or badly, is left alone."""
    for folder in VOUCHED:
        for item in (await store.list(folder)).items:
            if (write := _signed(item, signer)) is not None:
                await store.commit([KeyIs(item.key, item.revision)], [write])


def _signed(item: KeyValue, signer: ResourceSigner) -> Put | None:
    try:
        verify(item.key, item.value)
    except Unsigned:
        try:
            value = render(parse_at(item.key, item.value))
        except InvalidResource as error:
            _log.warning("left unsigned", reason=error.describe())
            return None
        _log.info("signed, since it was written before anything was", key=item.key)
        return Put(item.key, signer.sign(item.key, value), item.lease)
    except BadSignature:
        pass
    return None

"""Translates between the store's values and etcd's protobuf messages. Pure: the message classes are given."""

from collections.abc import Sequence
from types import ModuleType
from typing import Protocol, assert_never

from google.protobuf.message import Message

from registry.store.base import Changed, Delete, KeyIs, KeyValue, Put, Removed, Write
from registry.store.resume import Answer

# Keys a page of a listing; etcd answers a page in a few milliseconds, whatever the size of the whole.
PAGE = 500


class RawKeyValue(Protocol):
    """etcd's ``mvccpb.KeyValue``."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


class RawEvent(Protocol):
    """etcd's ``mvccpb.Event``."""

    type: int
    kv: RawKeyValue


class RawHeader(Protocol):
    """etcd's ``ResponseHeader``."""

    revision: int


class RawWatchResponse(Protocol):
    """etcd's ``WatchResponse``."""

    header: RawHeader
    events: Sequence[RawEvent]
    created: bool
    canceled: bool
    compact_revision: int
    fragment: bool
    cancel_reason: str
    watch_id: int


class Messages:
    """Requests and answers for keys below one prefix.

    Args:
        rpc: the message classes of etcd's ``kv.proto`` and ``rpc.proto``.
        prefix: what every key begins with.
    """

    def __init__(self, rpc: ModuleType, prefix: str) -> None:
        self._rpc = rpc
        self._prefix = prefix.encode()

    def key(self, key: str) -> bytes:
        """Give etcd's key for ours. etcd's are bytes; one that is no UTF-8 goes both ways unharmed."""
        return self._prefix + key.encode("utf-8", "surrogateescape")

    def get(self, key: str) -> Message:
        """Ask for one key."""
        return self._message("RangeRequest", key=self.key(key))

    def list(self, prefix: str, revision: int, *, last: bytes | None = None) -> Message:
        """Ask for a page of a listing: the first, or the one after the key `last`."""
        key = self.key(prefix)
        start = key if last is None else last + b"\0"
        return self._message(
            "RangeRequest", key=start, range_end=prefix_end(key), revision=revision, limit=PAGE
        )

    def put(self, key: str, value: bytes, lease: int) -> Message:
        """Write one key."""
        return self._message("PutRequest", key=self.key(key), value=value, lease=lease)

    def delete(self, key: str) -> Message:
        """Remove one key."""
        return self._message("DeleteRangeRequest", key=self.key(key))

    def commit(self, conditions: Sequence[KeyIs], writes: Sequence[Write]) -> Message:
        """Do all writes if all conditions hold."""
        return self._message(
            "TxnRequest",
            compare=[self._comparison(condition) for condition in conditions],
            success=[self._operation(write) for write in writes],
        )

    def watch(self, prefix: str, start: int) -> Message:
        """Open a watch at a revision."""
        key = self.key(prefix)
        create = self._message(
            "WatchCreateRequest",
            key=key,
            range_end=prefix_end(key),
            start_revision=start,
            progress_notify=True,
            fragment=True,
        )
        return self._message("WatchRequest", create_request=create)

    def item(self, kv: RawKeyValue) -> KeyValue:
        """Read a ``KeyValue``."""
        return KeyValue(
            key=self._text(kv.key),
            value=kv.value,
            created=kv.create_revision,
            revision=kv.mod_revision,
            lease=kv.lease,
        )

    def answer(self, response: RawWatchResponse) -> Answer:
        """Read a ``WatchResponse``."""
        return Answer(
            revision=response.header.revision,
            events=tuple(map(self._event, response.events)),
            created=response.created,
            canceled=response.canceled,
            compacted=response.compact_revision,
            fragment=response.fragment,
            reason=response.cancel_reason,
            watch=response.watch_id,
        )

    def _message(self, name: str, /, **fields: object) -> Message:
        message: Message = getattr(self._rpc, name)(**fields)
        return message

    def _text(self, key: bytes) -> str:
        return key[len(self._prefix) :].decode("utf-8", "surrogateescape")

    def _event(self, event: RawEvent) -> Changed | Removed:
        if event.type == self._rpc.Event.DELETE:
            return Removed(self._text(event.kv.key), event.kv.mod_revision)
        return Changed(self.item(event.kv))

    def _comparison(self, condition: KeyIs) -> Message:
        compare = self._rpc.Compare
        return self._message(
            "Compare",
            key=self.key(condition.key),
            target=compare.MOD,
            result=compare.EQUAL,
            mod_revision=condition.revision,
        )

    def _operation(self, write: Write) -> Message:
        match write:
            case Put(key, value, lease):
                return self._message("RequestOp", request_put=self.put(key, value, lease))
            case Delete(key):
                return self._message("RequestOp", request_delete_range=self.delete(key))
            case _:
                assert_never(write)


def prefix_end(prefix: bytes) -> bytes:
    """Give the first key after every key that begins with `prefix`, which holds a byte below 0xff."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1])

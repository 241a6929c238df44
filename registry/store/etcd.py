"""The store over a real etcd. The only module that names etcd3 and grpc.

What is used of etcd3 is its client class (channel, TLS) and its message types. Its watcher never resumes
after a restart, its lock and token refresh are broken, and its generated code does not load with today's
protobuf: see `registry.store.protobuf`.

Each endpoint has a channel of its own, so that TLS names, IPv6 and host names mix freely, and a member that
is up but has no leader can be left for the next. Calls are grpc futures, waited for without a thread; an
open watch occupies one thread while it waits for its next answer.
"""

import importlib.util
import os
import random
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, assert_never

import structlog
import trio
from google.protobuf.message import Message

from registry.errors import ConfigError, Conflict, RegistryError, StoreError, StoreForbidden, StoreUnavailable
from registry.store.accounts import EtcdAccounts
from registry.store.base import KeyIs, KeyValue, Listing, Progress, WatchEvent, Write, list_all
from registry.store.bridge import wait_future, wait_next
from registry.store.cluster import FIRST_PAUSE, Cluster, Failed
from registry.store.config import EtcdConfig
from registry.store.faults import AUTH_DISABLED, Fault, judge, judge_watch_end
from registry.store.lease import RENEWALS_PER_TTL, HeldLease, in_background, keep_alive, revoke_quietly
from registry.store.messages import Messages
from registry.store.protobuf import build_etcd_messages
from registry.store.resume import Deliver, Ended, Relist, ResumeAll, Verify

# grpc reads these on import. Its fork handlers only warn when a process with calls under way starts another,
# which agent and tests do by fork and exec; its own log repeats what we raise.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _load_etcd3() -> None:
    """Put message classes that load where `import etcd3` looks for its own."""
    spec = importlib.util.find_spec("etcd3")
    if spec is None or spec.origin is None:
        raise ImportError("etcd3 is not installed")
    folder = Path(spec.origin).parent / "etcdrpc"
    sys.modules["etcd3.etcdrpc"] = build_etcd_messages("etcd3.etcdrpc", folder)


_load_etcd3()

import etcd3  # noqa: E402 - needs what was just placed
import grpc  # noqa: E402 - reads the environment set above
from etcd3 import etcdrpc  # noqa: E402

# The message classes are made at run time, so that nothing is known of their fields.
_Response = Any

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_CHANNEL_OPTIONS = (
    # etcd answers pings more frequent than every 5 s by closing the connection, and idle ones likewise.
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.ping_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A page of a listing is as large as its values, which etcd already bounds.
    ("grpc.max_receive_message_length", -1),
    # Stores share nothing: neither a broken connection's back-off nor its loss.
    ("grpc.use_local_subchannel_pool", 1),
    # The mesh's own traffic goes through no proxy that the environment names.
    ("grpc.enable_http_proxy", 0),
)
# A member without a leader answers at once instead of holding the request.
_WANT_LEADER = (("hasleader", "true"),)
_LONGEST_WATCH_PAUSE = 1.0
_REVOKE_SECONDS = 2.0


class _Member:
    """One endpoint: its channel, the calls on it, and what their errors mean."""

    def __init__(self, endpoint: str, config: EtcdConfig) -> None:
        self.endpoint = endpoint
        host, _, port = endpoint.rpartition(":")
        try:
            self._client = etcd3.client(
                host=host,
                port=int(port),
                ca_cert=config.ca,
                cert_cert=config.cert,
                cert_key=config.key,
                grpc_options=_CHANNEL_OPTIONS,
            )
        except OSError as error:
            raise ConfigError(f"etcd: cannot read {error.filename}: {error.strerror}") from error
        channel = self._client.channel
        auth = etcdrpc.AuthStub(channel)
        # The two streams carry their first requests, then our half-close; etcd goes on answering (its JSON
        # gateway relies on it). That spares a thread of grpc's per stream to feed it requests.
        self._watch = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=etcdrpc.WatchRequest.SerializeToString,
            response_deserializer=etcdrpc.WatchResponse.FromString,
        )
        keep_alive = channel.unary_unary(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            request_serializer=etcdrpc.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=etcdrpc.LeaseKeepAliveResponse.FromString,
        )
        self._methods = {
            etcdrpc.RangeRequest: self._client.kvstub.Range,
            etcdrpc.PutRequest: self._client.kvstub.Put,
            etcdrpc.DeleteRangeRequest: self._client.kvstub.DeleteRange,
            etcdrpc.TxnRequest: self._client.kvstub.Txn,
            etcdrpc.LeaseGrantRequest: self._client.leasestub.LeaseGrant,
            etcdrpc.LeaseRevokeRequest: self._client.leasestub.LeaseRevoke,
            etcdrpc.LeaseKeepAliveRequest: keep_alive,
            etcdrpc.AuthenticateRequest: auth.Authenticate,
            etcdrpc.AuthUserListRequest: auth.UserList,
            etcdrpc.AuthUserAddRequest: auth.UserAdd,
            etcdrpc.AuthUserDeleteRequest: auth.UserDelete,
            etcdrpc.AuthUserGrantRoleRequest: auth.UserGrantRole,
            etcdrpc.AuthRoleListRequest: auth.RoleList,
            etcdrpc.AuthRoleAddRequest: auth.RoleAdd,
            etcdrpc.AuthRoleDeleteRequest: auth.RoleDelete,
            etcdrpc.AuthRoleGrantPermissionRequest: auth.RoleGrantPermission,
        }

    async def ask(self, request: Message, token: str, seconds: float) -> _Response:
        """Call the method that `request` is for, once.

        Raises:
            Failed: it did not answer, or refused.
        """
        future = self._methods[type(request)].future(request, timeout=seconds, metadata=_metadata(token))
        try:
            return await wait_future(future)
        except grpc.RpcError as error:
            raise Failed(self._judge(error)) from error

    @contextmanager
    def open_watch(
        self, requests: Sequence[Message], token: str
    ) -> Iterator[Callable[[], Awaitable[_Response]]]:
        """Open a stream of watches; gives what waits for its next answer, which raises `Failed`."""
        call = self._watch(iter(requests), metadata=_metadata(token))

        async def wait_answer() -> _Response:
            try:
                answer = await wait_next(call, cancel=call.cancel, name=f"etcd watch at {self.endpoint}")
            except grpc.RpcError as error:
                raise Failed(self._judge(error)) from error
            if answer is None:
                raise Failed(judge("UNAVAILABLE", "it closed the watch", at=self.endpoint))
            return answer

        try:
            yield wait_answer
        finally:
            call.cancel()

    def close(self) -> None:
        """Close the channel; what is under way fails."""
        self._client.close()

    def _judge(self, error: grpc.RpcError) -> Fault:
        return judge(error.code().name, error.details() or "", at=self.endpoint)


def _metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (*_WANT_LEADER, ("token", token)) if token else _WANT_LEADER


@asynccontextmanager
async def open_etcd(config: EtcdConfig) -> AsyncIterator["EtcdStore"]:
    """Open the store; connects at the first call, so that it opens with etcd down.

    The files named in `config` are read here, and by `EtcdStore.reconnect`.

    Raises:
        ConfigError: a file cannot be read.
    """
    store = EtcdStore(config, _open_members(config))
    try:
        yield store
    finally:
        store.close()


def _open_members(config: EtcdConfig) -> list[_Member]:
    with ExitStack() as stack:
        members = []
        for endpoint in config.endpoints:
            members.append(_Member(endpoint, config))
            stack.callback(members[-1].close)
        stack.pop_all()
    return members


class EtcdStore:
    """`registry.store.base.Store` over etcd; made by `open_etcd`.

    What happens to a call when a member stops answering, within the configured timeout:

    - Reads are linearizable, and are tried again on the next member.
    - `put`, `delete` and `grant_lease` are tried again too, since doing them twice ends in the same state. A
      watch may see such a put twice, a delete may answer False for what its own first try removed, and a
      lease whose answer was lost expires unused.
    - `commit` may have happened when its answer is lost, and doing it again could undo what came in between.
      It is tried again only if one of its writes changes a key whose revision it demands: had it happened,
      that demand would fail. If the second try finds it failing, who changed the key cannot be told, and
      `StoreUnavailable` says so. Any other commit is sent once, after a read that finds a member in order.
    """

    def __init__(self, config: EtcdConfig, members: Sequence[_Member]) -> None:
        self._members = members
        self._messages = Messages(etcdrpc, config.prefix)
        sign_in = None if config.user is None else partial(_sign_in, config.user, config.password)
        self._cluster = Cluster(members, timeout=config.timeout, sign_in=sign_in)
        self.accounts = EtcdAccounts(etcdrpc, config.prefix, self._ask)

    def close(self) -> None:
        """Close the connections; what is under way fails."""
        for member in self._members:
            member.close()

    async def reconnect(self, config: EtcdConfig) -> None:
        """Connect anew, with the files as they are now; `config` may differ in nothing else but these.

        The old connections are closed after the timeout, when no call is under way any more; watches go on
        by themselves. Cancelling closes them at once.

        Raises:
            ConfigError: a file cannot be read; the old connections stay.
        """
        old, self._members = self._members, _open_members(config)
        self._cluster.replace(self._members)
        try:
            await trio.sleep(config.timeout)
        finally:
            for member in old:
                member.close()

    async def get(self, key: str) -> KeyValue | None:
        """Read one key."""
        answer = await self._ask(self._messages.get(key))
        return self._messages.item(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str, *, revision: int = 0) -> Listing:
        """Read every key that begins with `prefix`, as of `revision` (0: now), at one revision.

        Raises:
            Conflict: `revision` is compacted or in the future.
        """
        while True:
            try:
                return await self._list(prefix, revision)
            except Conflict:
                # Without a revision of the caller's, the one we fixed was compacted between two pages.
                if revision:
                    raise

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write one key; gives the revision.

        Raises:
            NotFound: there is no such lease.
        """
        answer = await self._ask(self._messages.put(key, value, lease))
        return int(answer.header.revision)

    async def delete(self, key: str) -> bool:
        """Remove one key; whether it was there."""
        answer = await self._ask(self._messages.delete(key))
        return bool(answer.deleted)

    async def commit(self, conditions: Sequence[KeyIs], writes: Sequence[Write]) -> int | None:
        """Do all `writes` if all `conditions` hold, atomically; gives the revision, or None if not.

        Raises:
            NotFound: there is no such lease.
            StoreError: one key is written twice, or there are more writes than etcd allows.
        """
        request = self._messages.commit(conditions, writes)
        deadline = self._cluster.deadline()
        demanded = {condition.key for condition in conditions if condition.revision}
        guarded = any(write.key in demanded for write in writes)
        if writes and not guarded:
            # A key that is to be written may be read too; others perhaps not.
            await self._ask(self._messages.get(writes[0].key), deadline=deadline)
        doubtful = False
        try:
            try:
                answer = await self._ask(request, deadline=deadline, repeatable=not writes)
            except StoreUnavailable:
                doubtful = True
                if not guarded:
                    raise
                answer = await self._ask(request, deadline=deadline)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"a commit may or may not have happened: {error}") from error
        if answer.succeeded:
            return int(answer.header.revision)
        if doubtful:
            raise StoreUnavailable("a commit may or may not have happened: its keys have changed")
        return None

    @asynccontextmanager
    async def hold_lease(self, ttl: int) -> AsyncIterator[HeldLease]:
        """Grant a lease of `ttl` seconds and keep it alive while the context is open; revoke it on exit.

        Revoking is tried for two seconds, also when cancelled. etcd raises a TTL of a second or so to the
        least its elections allow.
        """
        granted = trio.current_time()
        answer = await self._ask(etcdrpc.LeaseGrantRequest(TTL=ttl))
        lease = HeldLease(answer.ID)
        renew = partial(self._renew, lease.id, answer.TTL)
        try:
            async with in_background(
                partial(keep_alive, lease, granted=granted, ttl=answer.TTL, renew=renew)
            ):
                yield lease
        finally:
            await revoke_quietly(lease, seconds=_REVOKE_SECONDS, revoke=partial(self._revoke, lease.id))

    async def grant_lease(self, ttl: int) -> int:
        """Grant a lease that nobody keeps alive: its keys vanish after `ttl` seconds."""
        return int((await self._ask(etcdrpc.LeaseGrantRequest(TTL=ttl))).ID)

    async def watch(self, *prefixes: str, after: int) -> AsyncGenerator[WatchEvent, None]:
        """Give every change under `prefixes` after the revision `after`, in order, once each, for ever.

        A `Progress` follows each batch, and says that the watch is in touch again after a break. Nothing is
        read ahead: a slow reader slows the stream down, not the memory up.

        Raises:
            StoreForbidden: the credentials may not read one of the prefixes.
        """
        resume = ResumeAll(len(prefixes), after)
        pause = FIRST_PAUSE
        refreshed = interrupted = False
        while True:
            member = self._cluster.member()
            token = ""
            error: RegistryError | None = None
            try:
                token = await self._cluster.token(member)
                starts = zip(prefixes, resume.open_stream(), strict=True)
                requests = [self._messages.watch(prefix, start) for prefix, start in starts]
                with member.open_watch(requests, token) as wait_answer:
                    while True:
                        step = resume.receive(self._messages.answer(await wait_answer()))
                        match step:
                            case Deliver(events):
                                if events and isinstance(events[-1], Progress):
                                    if interrupted:
                                        log.info("watch resumed", prefixes=prefixes, after=resume.after)
                                    pause, refreshed, interrupted = FIRST_PAUSE, False, False
                                for event in events:
                                    yield event
                            case Relist():
                                yield resume.relisted(await list_all(self, prefixes))
                                break
                            case Verify():
                                listing = await list_all(self, prefixes)
                                if listing.revision < resume.after:
                                    yield resume.relisted(listing)
                                    break
                            case Ended(reason):
                                error = judge_watch_end(reason, at=member.endpoint).error
                                break
                            case _:
                                assert_never(step)
            except Failed as failed:
                error = failed.fault.error
            except StoreError as unlisted:
                error = unlisted
            if error is None:
                continue
            if isinstance(error, StoreForbidden):
                # The reason may be a token that is no longer accepted, or that users were just changed.
                if refreshed:
                    raise error
                refreshed = True
                self._cluster.forget(token)
                continue
            if not interrupted:
                log.warning("watch interrupted", prefixes=prefixes, after=resume.after, reason=str(error))
            interrupted = True
            self._cluster.leave(member)
            # Spread, so that a restarted member is not met by everyone at once.
            await trio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
            pause = min(2 * pause, _LONGEST_WATCH_PAUSE)

    async def _ask(
        self, request: Message, *, deadline: float | None = None, repeatable: bool = True
    ) -> _Response:
        def ask(member: _Member, token: str, seconds: float) -> Awaitable[_Response]:
            return member.ask(request, token, seconds)

        return await self._cluster.call(ask, deadline=deadline, repeatable=repeatable)

    async def _list(self, prefix: str, revision: int) -> Listing:
        items: list[KeyValue] = []
        last: bytes | None = None
        while True:
            answer = await self._ask(self._messages.list(prefix, revision, last=last))
            items += map(self._messages.item, answer.kvs)
            revision = revision or answer.header.revision
            if not answer.more:
                return Listing(tuple(items), revision)
            last = answer.kvs[-1].key

    async def _renew(self, lease: int, ttl: int) -> int:
        # Leaves time for another try before the lease is over.
        deadline = self._cluster.deadline(ttl / RENEWALS_PER_TTL)
        return int((await self._ask(etcdrpc.LeaseKeepAliveRequest(ID=lease), deadline=deadline)).TTL)

    async def _revoke(self, lease: int) -> None:
        deadline = self._cluster.deadline(_REVOKE_SECONDS)
        await self._ask(etcdrpc.LeaseRevokeRequest(ID=lease), deadline=deadline)


async def _sign_in(user: str, password: str | None, member: _Member, seconds: float) -> str:
    try:
        request = etcdrpc.AuthenticateRequest(name=user, password=password)
        return str((await member.ask(request, "", seconds)).token)
    except Failed as failed:
        # The same configuration serves an etcd whose users are not switched on yet.
        if AUTH_DISABLED in str(failed):
            return ""
        raise

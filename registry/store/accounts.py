"""Who may do what in etcd itself: users and roles, one user for each node.

A node's user reads the folders that proxies act on and writes its own; it cannot even read the signing keys,
join tokens and administrators. etcd knows the user by the common name of its client certificate. This is a
fence and not the boundary: what nodes believe is signed.

Imports neither etcd3 nor grpc: the message classes and the call are given.
"""

from collections.abc import Awaitable, Callable, Iterable
from hashlib import sha256
from types import ModuleType
from typing import Any, Final, Protocol

import structlog
from google.protobuf.message import Message

from registry.errors import Conflict, RegistryError, StoreForbidden
from registry.store.codec import ENFORCED_PREFIXES
from registry.store.faults import AUTH_DISABLED
from registry.store.keys import DEFAULT_PREFIX
from registry.store.messages import prefix_end

# X.520's upper bound for a common name.
MAX_USER: Final = 64
_MARK: Final = "node:"
# Bits enough that two names never share them.
_DIGITS: Final = 32

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

Ask = Callable[[Message], Awaitable[Any]]


class Accounts(Protocol):
    """The nodes' accounts in the store."""

    def user_of(self, node: str) -> str:
        """Give the name of a node's user: the common name of its client certificate."""

    async def enabled(self) -> bool | None:
        """Whether the store asks who one is at all; None if that is not known.

        Raises:
            StoreError: it does not answer.
        """

    async def admit(self, node: str) -> None:
        """Make sure that a node has its user.

        Raises:
            StoreForbidden: our credentials do not suffice for that.
        """

    async def expel(self, node: str) -> None:
        """Make sure that a node has no user.

        Raises:
            StoreForbidden: our credentials do not suffice for that.
        """

    async def keep(self, nodes: Iterable[str]) -> None:
        """Make sure that these nodes have users, and in the long run no others.

        Raises:
            StoreForbidden: our credentials do not suffice for that.
        """


class NoAccounts:
    """Where accounts are not ours to keep: a store in memory, or an etcd whose users others look after."""

    def __init__(self, prefix: str = DEFAULT_PREFIX) -> None:
        self._prefix = prefix

    def user_of(self, node: str) -> str:
        """Give the name that the node's user should have."""
        return user_name(node, self._prefix)

    async def enabled(self) -> bool | None:
        """Say that nothing is known of users."""
        return None

    async def admit(self, node: str) -> None:
        """Leave users alone."""

    async def expel(self, node: str) -> None:
        """Leave users alone."""

    async def keep(self, nodes: Iterable[str]) -> None:
        """Leave users alone."""


def user_name(node: str, prefix: str) -> str:
    """Give the name of a node's user and role: ``node:<name>`` for all but long names and other prefixes."""
    plain = f"{_MARK}{node}"
    if prefix == DEFAULT_PREFIX and len(plain) <= MAX_USER:
        return plain
    # No node name holds a dot, so that no other node's plain name is like it.
    digest = sha256(f"{prefix}\0{node}".encode()).hexdigest()[:_DIGITS]
    return f"{_MARK}{node[: MAX_USER - len(_MARK) - 1 - _DIGITS]}.{digest}"


class EtcdAccounts:
    """Accounts of one mesh in etcd; needs etcd's root role where users are enabled.

    They are kept where users are not enabled too, so that enabling them is all there is to do.

    Args:
        rpc: the message classes of etcd's ``auth.proto`` and ``rpc.proto``.
        prefix: what every key of the mesh begins with.
        ask: makes a call.
    """

    def __init__(self, rpc: ModuleType, prefix: str, ask: Ask) -> None:
        self._rpc = rpc
        self._prefix = prefix
        self._ask = ask
        # What the last pass of `keep` found and did not know: perhaps the user of a node that is joining now,
        # which is made before its enrolment.
        self._surplus: set[str] = set()
        # Roles and users of several meshes in one etcd are told apart by the prefix.
        self._reader = user_name("reader", prefix).replace(_MARK, "mesh:", 1)

    def user_of(self, node: str) -> str:
        """Give the name of a node's user."""
        return user_name(node, self._prefix)

    async def enabled(self) -> bool:
        """Whether etcd asks who one is."""
        try:
            # Nobody is called so. An etcd without users says that it has none; one with users refuses.
            await self._ask(self._message("AuthenticateRequest", name=self._reader, password="-"))  # noqa: S106
        except RegistryError as error:
            return AUTH_DISABLED not in str(error)
        return True

    async def admit(self, node: str) -> None:
        """Make sure that a node has its user."""
        # Looked for first: each change of users makes etcd ask all of them again who they are.
        if self.user_of(node) not in await self._users() & await self._roles():
            await self._grant_reading()
            await self._admit(node)

    async def expel(self, node: str) -> None:
        """Make sure that a node has no user."""
        await self._expel(self.user_of(node), await self._users(), await self._roles())

    async def keep(self, nodes: Iterable[str]) -> None:
        """Make sure that these nodes have users, and remove those that were nobody's the last time too."""
        wanted = {self.user_of(node): node for node in nodes}
        users, roles = await self._users(), await self._roles()
        await self._grant_reading()
        for user in sorted(wanted.keys() - (users & roles)):
            await self._admit(wanted[user])
        # Without the default prefix, users of other meshes cannot be told from ours that are left over.
        if self._prefix == DEFAULT_PREFIX:
            surplus = {
                user for user in (users | roles) - wanted.keys() if user.startswith(_MARK) and "." not in user
            }
            for user in sorted(surplus & self._surplus):
                await self._expel(user, users, roles)
            self._surplus = surplus

    async def _grant_reading(self) -> None:
        await self._make("AuthRoleAddRequest", name=self._reader)
        for prefix in ENFORCED_PREFIXES:
            await self._grant(self._reader, prefix, self._rpc.Permission.READ)

    async def _admit(self, node: str) -> None:
        user = self.user_of(node)
        await self._make("AuthRoleAddRequest", name=user)
        await self._grant(user, f"nodes/{node}/", self._rpc.Permission.READWRITE)
        # There is no password to be had: the certificate says who it is.
        options = self._message("UserAddOptions", no_password=True)
        made = await self._make("AuthUserAddRequest", name=user, options=options)
        for role in (self._reader, user):
            await self._ask(self._message("AuthUserGrantRoleRequest", user=user, role=role))
        if made:
            log.info("etcd user made", user=user)

    async def _expel(self, user: str, users: set[str], roles: set[str]) -> None:
        if user in users:
            await self._ask(self._message("AuthUserDeleteRequest", name=user))
            log.info("etcd user removed", user=user)
        if user in roles:
            await self._ask(self._message("AuthRoleDeleteRequest", role=user))

    async def _grant(self, role: str, prefix: str, kind: int) -> None:
        key = (self._prefix + prefix).encode()
        permission = self._message("Permission", permType=kind, key=key, range_end=prefix_end(key))
        await self._ask(self._message("AuthRoleGrantPermissionRequest", name=role, perm=permission))

    async def _users(self) -> set[str]:
        return set((await self._call(self._message("AuthUserListRequest"))).users)

    async def _roles(self) -> set[str]:
        return set((await self._call(self._message("AuthRoleListRequest"))).roles)

    async def _call(self, request: Message) -> Any:  # noqa: ANN401 - of a class made at run time
        try:
            return await self._ask(request)
        except StoreForbidden as error:
            raise StoreForbidden(
                f"{error}; to keep the nodes' users the registry needs etcd's root role, else serve with "
                "--leave-etcd-accounts"
            ) from error

    async def _make(self, kind: str, /, **fields: object) -> bool:
        """Ask for something to be made; whether it was not there before."""
        try:
            await self._ask(self._message(kind, **fields))
        except Conflict:
            return False
        return True

    def _message(self, name: str, /, **fields: object) -> Message:
        message: Message = getattr(self._rpc, name)(**fields)
        return message

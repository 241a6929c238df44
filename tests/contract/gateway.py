"""What the tests ask of etcd beside the store's own calls, by its JSON gateway."""

import base64
from dataclasses import dataclass

import httpx


@dataclass(frozen=True)
class Gateway:
    """The JSON gateway of one plain etcd, as `user` if it has users."""

    endpoint: str
    user: str = ""
    password: str = ""

    async def compact(self, revision: int) -> None:
        """Forget the history up to `revision`, for good."""
        await self.call("kv/compaction", revision=revision, physical=True)

    async def revoke(self, lease: int) -> None:
        """End a lease as its expiry would."""
        await self.call("lease/revoke", ID=lease)

    async def put(self, key: str, value: bytes) -> None:
        """Write a key, given in full."""
        await self.call("kv/put", key=_encode(key.encode()), value=_encode(value))

    async def enable_users(self, reader: str, password: str, prefix: str) -> None:
        """Switch users on: `root`, whose password is "root", and `reader`, who may read `prefix`."""
        for name, secret in (("root", "root"), (reader, password)):
            await self.call("auth/user/add", name=name, password=secret)
            await self.call("auth/role/add", name=name)
            await self.call("auth/user/grant", user=name, role=name)
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        may_read = {"permType": "READ", "key": _encode(prefix.encode()), "range_end": _encode(end.encode())}
        await self.call("auth/role/grant", name=reader, perm=may_read)
        await self.call("auth/enable")

    async def call(self, method: str, **fields: object) -> None:
        """Call a method; fails the test if etcd refuses."""
        async with httpx.AsyncClient(base_url=f"http://{self.endpoint}/v3/", trust_env=False) as client:
            headers = {}
            if self.user:
                login = {"name": self.user, "password": self.password}
                answer = (await client.post("auth/authenticate", json=login)).raise_for_status()
                headers["Authorization"] = answer.json()["token"]
            (await client.post(method, json=fields, headers=headers)).raise_for_status()


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()

"""Carries out planned flows over real sockets, both ends in one trio loop, and notes what each end saw.

Plain non-blocking sockets, since the kernel tells an error once, and whoever hears it must note it before
anybody else reads on.
"""

import hashlib
import random
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from tests.integration.flows import Material, Plan, Role

# How many flows there are at a time.
AT_ONCE = 100
LONGEST_PAUSE = 0.02
CHUNK = 1 << 16
# Seconds for each flow; only keeps a broken run from hanging.
PATIENCE = 0.1
# The first that a caller sends: which flow it is.
_NUMBER = struct.Struct(">Q")
# Makes close() reset.
_LINGER_NOT = struct.pack("ii", 1, 0)


@dataclass
class Outcome:
    """What one end saw.

    `count` bytes came, `exact` as they were sent. `ended` is by a clean end before anything broke, `broken`
    by an error of the connection; both are false of one that reset it itself.
    """

    count: int = 0
    exact: bool = False
    ended: bool = False
    broken: bool = False


class End:
    """One end of a flow: sends and receives at once; what is `first` it sends before anything else."""

    def __init__(
        self, sock: socket.socket, plan: Plan, role: Role, material: Material, *, first: bytes = b""
    ) -> None:
        self._sock = sock
        self._mine, self._theirs = plan.halves[role], plan.halves[role.other]
        self._material = material
        self._first = first
        self._rng = random.Random(f"{plan.number} {role}")  # noqa: S311 - test data
        self._digester = hashlib.sha256()
        self._heard_end = trio.Event()
        self._outcome = Outcome()

    async def run(self) -> Outcome:
        """Do what is planned."""
        outcome = self._outcome
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, nursery.cancel_scope)
            nursery.start_soon(self._receive, nursery.cancel_scope)
        sent = self._material.piece(self._theirs)[: outcome.count]
        outcome.exact = self._digester.digest() == hashlib.sha256(sent).digest()
        return outcome

    async def _send(self, both: trio.CancelScope) -> None:
        """Send all, then end this direction, or reset the connection and leave."""
        try:
            await self._send_all(memoryview(self._first))
            if self._mine.patient:
                await self._heard_end.wait()
            rest = self._material.piece(self._mine)[: self._mine.resets_at]
            while rest:
                chunk = rest[: self._rng.randint(1, self._mine.chunk)]
                await self._send_all(chunk)
                rest = rest[len(chunk) :]
            if self._mine.resets_at is None:
                self._sock.shutdown(socket.SHUT_WR)
                return
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        except OSError:
            self._outcome.broken = True
        both.cancel()

    async def _send_all(self, rest: memoryview) -> None:
        while rest:
            await trio.lowlevel.wait_writable(self._sock)
            rest = rest[self._sock.send(rest) :]

    async def _receive(self, both: trio.CancelScope) -> None:
        """Receive to the end, at times with pauses."""
        try:
            while data := await _receive_some(self._sock, CHUNK):
                self._digester.update(data)
                self._outcome.count += len(data)
                if self._rng.random() < self._mine.pausing:
                    await trio.sleep(self._rng.random() * LONGEST_PAUSE)
        except OSError:
            self._outcome.broken = True
            both.cancel()
        else:
            # When sending has heard of an error already, reading finds nothing any more.
            self._outcome.ended = not self._outcome.broken
            self._heard_end.set()


class Soak:
    """Runs flows; `outcomes` has what each end saw, by the number of the flow.

    `unnamed` are connections that ended before they said which flow they were: whether by a clean end.
    """

    def __init__(self, plans: Sequence[Plan], material: Material) -> None:
        self.outcomes: dict[Role, dict[int, Outcome]] = {role: {} for role in Role}
        self.unnamed: list[bool] = []
        self._plans = {plan.number: plan for plan in plans}
        self._material = material
        self._served = 0

    async def run(self, listeners: Sequence[socket.socket], ports: Sequence[int]) -> None:
        """Serve on `listeners` and carry out every plan through one of `ports`, in turn."""
        slots = trio.CapacityLimiter(AT_ONCE)
        with trio.fail_after(PATIENCE * len(self._plans)):
            async with trio.open_nursery() as services:
                for listener in listeners:
                    services.start_soon(self._serve, listener, services)
                async with trio.open_nursery() as callers:
                    for number in self._plans:
                        callers.start_soon(self._call, number, ports[number % len(ports)], slots)
                # What the last callers have reset is still to be heard at the other ends.
                while self._served:  # noqa: ASYNC110 - and what is still on its way sets no event
                    await trio.sleep(0.01)
                services.cancel_scope.cancel()

    async def _call(self, number: int, port: int, slots: trio.CapacityLimiter) -> None:
        async with slots:
            with socket.socket() as sock:
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))
                plan, first = self._plans[number], _NUMBER.pack(number)
                end = End(sock, plan, Role.CALLER, self._material, first=first)
                self.outcomes[Role.CALLER][number] = await end.run()

    async def _serve(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        listener.setblocking(False)
        while True:
            await trio.lowlevel.wait_readable(listener)
            sock, _address = listener.accept()
            nursery.start_soon(self._answer, sock)

    async def _answer(self, sock: socket.socket) -> None:
        self._served += 1
        with sock:
            sock.setblocking(False)
            number = await self._hear_number(sock)
            if number is not None:
                end = End(sock, self._plans[number], Role.WORKLOAD, self._material)
                self.outcomes[Role.WORKLOAD][number] = await end.run()
        self._served -= 1

    async def _hear_number(self, sock: socket.socket) -> int | None:
        heard = b""
        try:
            while len(heard) < _NUMBER.size:
                data = await _receive_some(sock, _NUMBER.size - len(heard))
                if not data:
                    self.unnamed.append(True)
                    return None
                heard += data
        except OSError:
            self.unnamed.append(False)
            return None
        return int(_NUMBER.unpack(heard)[0])


async def _receive_some(sock: socket.socket, most: int) -> bytes:
    await trio.lowlevel.wait_readable(sock)
    return sock.recv(most)

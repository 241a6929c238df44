"""Two channels joined: what comes on one leaves on the other, as it is."""

import trio

from node_proxy.dataplane.http.channel import Channel, ChannelBroken


async def join(caller: Channel, workload: Channel, first: bytes = b"") -> None:
    """Carry bytes both ways until both directions have ended, or one side breaks; then both are reset.

    Both are closed whatever happens; cancellation resets them.

    Args:
        caller: one side.
        workload: the other.
        first: what was read from the caller already.
    """
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_carry, workload, caller, b"", nursery.cancel_scope)
            nursery.start_soon(_carry, caller, workload, first, nursery.cancel_scope)
    except BaseException:
        caller.abort()
        workload.abort()
        raise
    caller.close()
    workload.close()


async def _carry(source: Channel, sink: Channel, first: bytes, scope: trio.CancelScope) -> None:
    try:
        data = first or await source.receive()
        while data:
            await sink.send(data)
            data = await source.receive()
        sink.end()
    except ChannelBroken:
        source.abort()
        sink.abort()
        scope.cancel()

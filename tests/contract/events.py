"""Reads watches in tests."""

from collections.abc import AsyncGenerator, Callable, Iterable

import trio

from registry.store.base import Changed, Listing, Progress, Relisted, Removed, WatchEvent

Watch = AsyncGenerator[WatchEvent, None]


async def take(watch: Watch, count: int) -> list[Changed | Removed | Relisted]:
    """Give the next `count` events that are no `Progress`, and check that no `Progress` lies.

    A `Progress` lies if something not newer comes after it.
    """
    taken: list[Changed | Removed | Relisted] = []
    told = 0
    async for event in watch:
        if isinstance(event, Progress):
            told = max(told, event.revision)
            continue
        if not isinstance(event, Relisted):
            assert revision_of(event) > told
        taken.append(event)
        if len(taken) == count:
            return taken
    raise AssertionError(f"the watch ended after {taken}")


async def wait_progress(watch: Watch) -> int:
    """Wait until the watch says that it is in touch; gives the revision."""
    event = await anext(watch)
    assert isinstance(event, Progress)
    return event.revision


def revision_of(event: Changed | Removed | Relisted) -> int:
    """Give the revision of an event."""
    match event:
        case Changed(item):
            return item.revision
        case Removed(_, revision):
            return revision
        case Relisted(listing):
            return listing.revision


def values(events: Iterable[Changed | Removed | Relisted]) -> list[bytes | None]:
    """Give the values written, None for a removal."""
    return [event.item.value if isinstance(event, Changed) else None for event in events]


def contents(listing: Listing) -> dict[str, bytes]:
    """Give what a listing holds."""
    return {item.key: item.value for item in listing.items}


def replay(events: Iterable[WatchEvent]) -> dict[str, bytes]:
    """Give the keys and values that stand after the events."""
    state: dict[str, bytes] = {}
    for event in events:
        match event:
            case Changed(item):
                state[item.key] = item.value
            case Removed(key, _):
                state.pop(key, None)
            case Relisted(listing):
                state = contents(listing)
            case Progress():
                pass
    return state


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what nothing announces."""
    while not condition():  # noqa: ASYNC110 - threads and counters set no event
        await trio.sleep(0.01)

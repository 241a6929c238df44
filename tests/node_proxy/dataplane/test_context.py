import pytest
import trio
import trio.testing

from node_proxy.dataplane import telemetry
from tests.fakes.context import scene


async def fail() -> None:
    """Have a bug."""
    raise ZeroDivisionError


async def test_bug_in_a_task_costs_only_that_task() -> None:
    """A contained task that raises is logged with its traceback and counted; its siblings go on."""
    stage = scene()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.context.contain, fail)
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.cancel_scope.cancel_called
    assert [line["exc_info"] for line in stage.logged("connection crashed")] == [True]
    assert stage.counted(telemetry.CRASHES, part="task") == 1


async def test_arguments_are_passed() -> None:
    """A contained task gets its arguments."""
    got: list[tuple[int, str]] = []

    async def note(number: int, text: str) -> None:
        got.append((number, text))

    await scene().context.contain(note, 1, "two")
    assert got == [(1, "two")]


async def test_cancellation_is_no_bug(autojump_clock: trio.testing.MockClock) -> None:
    """Cancelling a contained task ends it as any other."""
    stage = scene()
    with trio.move_on_after(1) as scope:
        await stage.context.contain(trio.sleep_forever)
    assert scope.cancelled_caught
    assert stage.logs.entries == []


async def test_end_of_the_process_is_not_contained() -> None:
    """Ctrl-C reaches the top."""

    async def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await scene().context.contain(interrupt)


def test_decision_ids_are_unique_across_workers() -> None:
    """No two decisions of a node share an id, whichever worker made them."""
    first, second = scene().context, scene().context
    ids = [context.new_decision_id() for context in (first, second) for _ in range(100)]
    assert len(set(ids)) == 200

"""A place where one task waits to be woken inline: an Event without its bookkeeping."""

from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled


class Wakes:
    """How many tasks were woken so far; tells the reactor that there are some that it should let run.

    Trio would tell it too, with much else, for as much as a small request costs.
    """

    count = 0


class Parking:
    """Holds at most one waiting task. `wake` without one does nothing, so waiters look again in a loop."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: Task | None = None

    @property
    def occupied(self) -> bool:
        """Whether a task waits here."""
        return self._task is not None

    async def wait(self) -> None:
        """Wait for `wake`. Cancellation leaves the place free.

        Raises:
            RuntimeError: another task waits here: a bug of ours.
        """
        if self._task is not None:
            raise RuntimeError("two tasks wait for the same thing")
        self._task = current_task()
        await wait_task_rescheduled(self._abort)

    def wake(self) -> None:
        """Let the task that waits here go on, if there is one."""
        task, self._task = self._task, None
        if task is not None:
            Wakes.count += 1
            reschedule(task)

    def _abort(self, _raise_cancel: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED

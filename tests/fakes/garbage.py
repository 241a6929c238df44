"""What of some classes is alive when only reference counts free: for tests that nothing is left for gc."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def counting_alone() -> Iterator[None]:
    """Keep the garbage collector from running, so that reference counts alone free objects."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alive(*kinds: type) -> list[str]:
    """Give the names of the classes of all instances that are alive."""
    return sorted(type(each).__name__ for each in gc.get_objects() if type(each) in kinds)

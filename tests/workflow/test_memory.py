"""The garbage collector as the worker sets it."""

import gc
from collections import deque
from collections.abc import Iterator

import pytest

from workers import memory

OBJECTS = 1000
"""Of one workflow in the cache, in order of magnitude."""


class Evicted:
    """A workflow whose parts refer to it, as its event loop and tasks do."""

    alive = 0

    def __init__(self) -> None:
        Evicted.alive += 1
        self.parts = [[self] for _ in range(OBJECTS)]

    def __del__(self) -> None:
        Evicted.alive -= 1


@pytest.fixture
def tuned() -> Iterator[None]:
    before = gc.get_threshold()
    memory.defer()
    memory.tune()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.usefixtures("tuned")
def test_workflows_that_left_the_cache_are_freed() -> None:
    cache: deque[Evicted] = deque(maxlen=500)
    most = 0
    for _ in range(3000):
        cache.append(Evicted())
        most = max(most, Evicted.alive)
    assert most < 2700

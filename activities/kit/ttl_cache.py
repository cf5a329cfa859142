"""A cache whose entries expire, so that changes by other processes are seen a few seconds later."""

from collections.abc import Awaitable, Callable, Hashable
from time import monotonic
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TtlCache(Generic[K, V]):
    """Keeps entries for ``seconds``. ``None`` is never cached."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._entries: dict[K, tuple[float, V]] = {}

    async def get(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        """Return the fresh entry of ``key``, or load it. Concurrent misses load more than once."""
        entry = self._entries.get(key)
        if entry is not None and monotonic() - entry[0] < self._seconds:
            return entry[1]
        value = await load()
        if value is not None:
            self._entries[key] = (monotonic(), value)
        return value

    def clear(self) -> None:
        """Make the next look-up of every key load."""
        self._entries.clear()

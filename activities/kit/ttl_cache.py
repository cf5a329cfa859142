"""A cache whose entries expire: what another process changed is seen a few seconds later."""

from collections.abc import Awaitable, Callable, Hashable
from time import monotonic
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TtlCache(Generic[K, V]):
    """Entries live for ``seconds``. ``None`` is never kept: what is missing is looked up again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._entries: dict[K, tuple[float, V]] = {}

    async def get(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        """The fresh entry of ``key``, or what ``load`` returns. Concurrent misses load more than once."""
        known = self._entries.get(key)
        if known is not None and monotonic() - known[0] < self._seconds:
            return known[1]
        value = await load()
        if value is not None:
            self._entries[key] = (monotonic(), value)
        return value

    def clear(self) -> None:
        """Forces the next look-up of every key to load."""
        self._entries.clear()

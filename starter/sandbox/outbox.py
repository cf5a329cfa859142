"""Messages that a twin sends to Hengdan by itself: in order, in batches, repeated until accepted."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic, TypeVar

import httpx

Item = TypeVar("Item")

_BATCH_SECONDS = 0.02
_RETRY_SECONDS = 0.5
_tasks: set[asyncio.Task[None]] = set()


def spawn(work: Coroutine[Any, Any, None]) -> None:
    """Run beside the requests; ends with the process."""
    task = asyncio.create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


class Outbox(Generic[Item]):
    """``render`` makes headers and body of at most ``size`` items; ``accepted`` reads the response."""

    def __init__(
        self,
        size: int,
        render: Callable[[Sequence[Item]], tuple[Mapping[str, str], bytes]],
        accepted: Callable[[httpx.Response], bool],
    ) -> None:
        self._size = size
        self._render = render
        self._accepted = accepted
        self._waiting: dict[str, list[Item]] = {}
        self._sending: set[str] = set()

    def put(self, client: httpx.AsyncClient, url: str, items: Sequence[Item]) -> None:
        self._waiting.setdefault(url, []).extend(items)
        if url not in self._sending:
            self._sending.add(url)
            spawn(self._send(client, url))

    async def post(self, client: httpx.AsyncClient, url: str, items: Sequence[Item]) -> list[httpx.Response]:
        """Send at once, without a retry."""
        batches = [items[at : at + self._size] for at in range(0, len(items), self._size)]
        return [await self._post(client, url, batch) for batch in batches]

    async def _post(self, client: httpx.AsyncClient, url: str, batch: Sequence[Item]) -> httpx.Response:
        headers, body = self._render(batch)
        return await client.post(url, content=body, headers=headers)

    async def _send(self, client: httpx.AsyncClient, url: str) -> None:
        waiting = self._waiting[url]
        try:
            while waiting:
                await asyncio.sleep(_BATCH_SECONDS)
                batch = waiting[: self._size]
                try:
                    accepted = self._accepted(await self._post(client, url, batch))
                except httpx.HTTPError:
                    accepted = False
                if accepted:
                    del waiting[: len(batch)]
                else:
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._sending.discard(url)

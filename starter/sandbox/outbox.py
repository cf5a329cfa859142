"""What a twin tells Hengdan on its own: in order, in bunches, again until it is taken."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic, TypeVar

import httpx

Item = TypeVar("Item")

_GATHER_SECONDS = 0.02
_AGAIN_SECONDS = 0.5
_tasks: set[asyncio.Task[None]] = set()


def spawn(work: Coroutine[Any, Any, None]) -> None:
    """Runs beside the requests; what is lost with the process is lost."""
    task = asyncio.create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


class Outbox(Generic[Item]):
    """``render`` makes headers and body of at most ``size`` items; ``taken`` reads the answer."""

    def __init__(
        self,
        size: int,
        render: Callable[[Sequence[Item]], tuple[Mapping[str, str], bytes]],
        taken: Callable[[httpx.Response], bool],
    ) -> None:
        self._size = size
        self._render = render
        self._taken = taken
        self._waiting: dict[str, list[Item]] = {}
        self._sending: set[str] = set()

    def put(self, client: httpx.AsyncClient, url: str, items: Sequence[Item]) -> None:
        self._waiting.setdefault(url, []).extend(items)
        if url not in self._sending:
            self._sending.add(url)
            spawn(self._send(client, url))

    async def post(self, client: httpx.AsyncClient, url: str, items: Sequence[Item]) -> list[httpx.Response]:
        """Sends at once, and only once."""
        bunches = [items[at : at + self._size] for at in range(0, len(items), self._size)]
        return [await self._post(client, url, bunch) for bunch in bunches]

    async def _post(self, client: httpx.AsyncClient, url: str, bunch: Sequence[Item]) -> httpx.Response:
        headers, body = self._render(bunch)
        return await client.post(url, content=body, headers=headers)

    async def _send(self, client: httpx.AsyncClient, url: str) -> None:
        waiting = self._waiting[url]
        try:
            while waiting:
                await asyncio.sleep(_GATHER_SECONDS)
                bunch = waiting[: self._size]
                try:
                    taken = self._taken(await self._post(client, url, bunch))
                except httpx.HTTPError:
                    taken = False
                if taken:
                    del waiting[: len(bunch)]
                else:
                    await asyncio.sleep(_AGAIN_SECONDS)
        finally:
            self._sending.discard(url)

"""Group commit: concurrent calls share one transaction.

When many orders need the same stock, each would wait for the others' commits; as a group they lock, write and commit
once. A single call is served at once: a group is what arrived while the previous group was being served.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from activities.kit.database import transaction

MOST = 100
"""Calls in one transaction. More would gain nothing and make the first wait for the last."""


class Call(Protocol):
    @property
    def key(self) -> str:
        """Identifies the subject of the call: a group has at most one call for each key."""
        ...

    @property
    def turn(self) -> tuple[object, ...]:
        """Sort key among waiting calls."""
        ...


C = TypeVar("C", bound=Call)
R = TypeVar("R")


class GroupCommit(Generic[C, R]):
    """``serve`` returns the results of a group of calls in their order. If it raises, each call is served again in its
    own transaction, so that each fails alone."""

    def __init__(self, serve: Callable[[AsyncConnection, Sequence[C]], Awaitable[Sequence[R]]]) -> None:
        self._serve = serve
        self._waiting: list[tuple[C, asyncio.Future[R]]] = []
        self._serving: asyncio.Task[None] | None = None

    async def __call__(self, call: C) -> R:
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve_all())
        return await future

    async def _serve_all(self) -> None:
        while group := self._next():
            await self._run(group)

    def _next(self) -> list[tuple[C, asyncio.Future[R]]]:
        group: dict[str, tuple[C, asyncio.Future[R]]] = {}
        later = []
        for each in sorted(self._waiting, key=lambda waiting: waiting[0].turn):
            call, future = each
            if len(group) < MOST and call.key not in group:
                group[call.key] = each
            elif not future.done():
                later.append(each)
        self._waiting = later
        return list(group.values())

    async def _run(self, group: Sequence[tuple[C, asyncio.Future[R]]]) -> None:
        try:
            async with transaction() as connection:
                results = await self._serve(connection, [call for call, _ in group])
        except Exception as error:
            if len(group) > 1:
                for each in group:
                    await self._run([each])
            elif not group[0][1].done():
                group[0][1].set_exception(error)
            return
        for (_, future), result in zip(group, results, strict=True):
            if not future.done():
                future.set_result(result)

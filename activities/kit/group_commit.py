"""Group commit: calls that come together share one transaction.

Where many orders want the same stock, each would wait for the others' commits; together they lock, write and commit
once. A call that comes alone goes at once: a group is only what came while the group before it was being served.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from activities.kit.database import transaction

MOST = 100
"""Calls in one transaction: beyond, nothing is gained and the first wait for the last."""


class Call(Protocol):
    @property
    def key(self) -> str:
        """What the call is about: two about the same are never in one group."""
        ...

    @property
    def turn(self) -> tuple[object, ...]:
        """Its place among those that wait."""
        ...


Given = TypeVar("Given", bound=Call)
Result = TypeVar("Result")


class GroupCommit(Generic[Given, Result]):
    """``serve`` answers a group of calls in their order. Where it raises, each is served again in its own transaction,
    so that each fails alone."""

    def __init__(self, serve: Callable[[AsyncConnection, Sequence[Given]], Awaitable[Sequence[Result]]]) -> None:
        self._serve = serve
        self._waiting: list[tuple[Given, asyncio.Future[Result]]] = []
        self._serving: asyncio.Task[None] | None = None

    async def __call__(self, call: Given) -> Result:
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, answer))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve_all())
        return await answer

    async def _serve_all(self) -> None:
        while group := self._next():
            await self._answer(group)

    def _next(self) -> list[tuple[Given, asyncio.Future[Result]]]:
        group: dict[str, tuple[Given, asyncio.Future[Result]]] = {}
        later = []
        for each in sorted(self._waiting, key=lambda waiting: waiting[0].turn):
            call, answer = each
            if len(group) < MOST and call.key not in group:
                group[call.key] = each
            elif not answer.done():
                later.append(each)
        self._waiting = later
        return list(group.values())

    async def _answer(self, group: Sequence[tuple[Given, asyncio.Future[Result]]]) -> None:
        try:
            async with transaction() as connection:
                results = await self._serve(connection, [call for call, _ in group])
        except Exception as error:
            if len(group) > 1:
                for each in group:
                    await self._answer([each])
            elif not group[0][1].done():
                group[0][1].set_exception(error)
            return
        for (_, answer), result in zip(group, results, strict=True):
            if not answer.done():
                answer.set_result(result)

"""A worker whose engine is too busy to create schedules serves orders all the same, and creates them later."""

import asyncio

import pytest
from temporalio.service import RPCError, RPCStatusCode

from workers import main, supervisor


async def test_schedules_that_time_out_do_not_end_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    created = asyncio.Event()
    tries = 0

    async def busy(client: object) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise RPCError("Timeout expired", RPCStatusCode.DEADLINE_EXCEEDED, b"")
        created.set()

    async def nothing(client: object) -> None:
        return None

    monkeypatch.setattr(main, "schedule_system", busy)
    monkeypatch.setattr(main, "schedule_shops", nothing)
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    scheduling = asyncio.create_task(main.supervise("schedules", lambda: main._schedule(object())))  # type: ignore[arg-type]
    await asyncio.wait_for(created.wait(), 30)
    assert not scheduling.done()
    scheduling.cancel()
    assert tries == 3

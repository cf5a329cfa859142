"""A bare workflow of the order's shape: as many activities, local activities, signals, timers and upserts, all empty.

It is the floor that the order's full life is measured against.
"""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

STATUS = SearchAttributeKey.for_keyword("OrderStatus")
TASK_QUEUE = "bare"


@activity.defn
async def step(number: int) -> int:
    return number


@activity.defn
async def reach(name: str) -> str:
    return name


@workflow.defn
class BareWorkflow:
    def __init__(self) -> None:
        self.shipped = self.delivered = False
        self.deadline = 1

    @workflow.run
    async def run(self, name: str) -> str:
        watch = asyncio.create_task(self._watch())
        await self._step(1)
        self._upsert("allocated")
        await self._reach(name)
        await self._reach(name)
        await workflow.wait_condition(lambda: self.shipped)
        self.deadline = 2
        await self._step(2)
        self._upsert("shipped")
        await self._reach(name)
        await workflow.wait_condition(lambda: self.delivered)
        await self._step(3)
        self._upsert("completed")
        del watch
        return name

    async def _watch(self) -> None:
        while True:
            due = self.deadline
            await workflow.wait_condition(lambda due=due: self.deadline != due, timeout=timedelta(hours=due))

    async def _step(self, number: int) -> int:
        return await workflow.execute_local_activity(step, number, start_to_close_timeout=timedelta(seconds=30))

    async def _reach(self, name: str) -> str:
        return await workflow.execute_activity(reach, name, start_to_close_timeout=timedelta(seconds=60))

    def _upsert(self, status: str) -> None:
        workflow.upsert_search_attributes([STATUS.value_set(status)])

    @workflow.signal
    def ship(self) -> None:
        self.shipped = True

    @workflow.signal
    def deliver(self) -> None:
        self.delivered = True


async def life(client: Client, name: str) -> None:
    """Starts one, and sends its two signals when it waits for them."""
    handle = await client.start_workflow(
        BareWorkflow.run,
        name,
        id=name,
        task_queue=TASK_QUEUE,
        search_attributes=TypedSearchAttributes([SearchAttributePair(STATUS, "received")]),
    )
    await asyncio.sleep(0)
    return await handle.result()

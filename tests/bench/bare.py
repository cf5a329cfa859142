"""A bare workflow with the steps of an order: as many activities, local activities, signals, timers and upserts, empty.

It is the baseline of the order workflow. ``python -m tests.bench.bare ORDERS CONCURRENT`` runs this many of them with
its own worker, and prints one line of JSON after the warm-up and one with the results.
"""

import asyncio
import json
import os
import sys
import time
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

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
            await workflow.wait_condition(lambda due=due: self.deadline != due, timeout=timedelta(hours=due))  # type: ignore[misc]

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


class Signaller:
    """Signals each workflow when it waits: shortly after its second and its third activity."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._reached: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @activity.defn(name="reach")
    async def reach(self, name: str) -> str:
        times = self._reached[name] = self._reached.get(name, 0) + 1
        if times > 1:
            task = asyncio.create_task(self._signal(name, "ship" if times == 2 else "deliver"))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return name

    async def _signal(self, name: str, signal: str) -> None:
        await asyncio.sleep(0.3)
        await self._client.get_workflow_handle(name).signal(signal)


async def run_workflow(client: Client, name: str) -> None:
    handle = await client.start_workflow(
        BareWorkflow.run,
        name,
        id=name,
        task_queue=TASK_QUEUE,
        search_attributes=TypedSearchAttributes([SearchAttributePair(STATUS, "received")]),
    )
    await handle.result()


async def main(orders: int, concurrent: int) -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    limit = asyncio.Semaphore(concurrent)

    async def one(name: str) -> None:
        async with limit:
            await run_workflow(client, name)

    async with Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=[BareWorkflow],
        activities=[step, Signaller(client).reach],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        await asyncio.gather(*(one(f"bare-warm-{number}") for number in range(20)))
        _print_json({})
        started = time.monotonic()
        await asyncio.gather(*(one(f"bare-{number}") for number in range(orders)))
        seconds = time.monotonic() - started
        history = await client.get_workflow_handle("bare-0").fetch_history()
        _print_json({"orders": orders, "per_second": round(orders / seconds, 2), "events": len(history.events)})
        await asyncio.to_thread(sys.stdin.read)  # the parent reads our CPU time before we exit


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
    os._exit(0)

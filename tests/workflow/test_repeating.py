"""Repeated work in one execution with a short history, and heartbeats for as long as a worker lives."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from models.settings import settings
from workers import heartbeats
from workers.client import data_converter
from workers.embedded import Temporal
from workers.heartbeats import KeepBeating
from workers.main import worker
from workflows import repeating
from workflows.thresholds import ThresholdsWorkflow


async def test_repeated_work_is_one_execution_with_a_short_history(
    database: str, time_skipping: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeating, "HISTORY_LIMIT", 40)
    client = Client(**{**time_skipping.client.config(), "data_converter": data_converter()})
    async with worker(client):
        started = await client.start_workflow(
            ThresholdsWorkflow.run, 60.0, id=f"thresholds-{uuid4()}", task_queue=settings().task_queue
        )
        await time_skipping.sleep(timedelta(minutes=20))
        latest = client.get_workflow_handle(started.id)
        events = (await latest.fetch_history()).events
        await latest.terminate()
    begun = events[0].workflow_execution_started_event_attributes
    assert begun.continued_execution_run_id, "goes on in a new history"
    assert len(events) < 60


@activity.defn
async def work_in_silence() -> int:
    """Report progress once, then nothing for longer than the heartbeat timeout."""
    activity.heartbeat("half")
    await asyncio.sleep(4)
    return activity.info().attempt


@workflow.defn(sandboxed=False)
class SilentWorkflow:
    @workflow.run
    async def run(self) -> int:
        return await workflow.execute_activity(
            work_in_silence,
            start_to_close_timeout=timedelta(seconds=60),
            heartbeat_timeout=timedelta(seconds=2),
        )


async def test_silent_activity_is_kept_and_so_is_its_progress(
    temporal_server: Temporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "HEARTBEAT", timedelta(seconds=0.3))
    client = await Client.connect(temporal_server.address)
    queue = f"silent-{uuid4()}"
    async with Worker(
        client,
        task_queue=queue,
        workflows=[SilentWorkflow],
        activities=[work_in_silence],
        workflow_runner=UnsandboxedWorkflowRunner(),
        interceptors=[KeepBeating()],
        max_heartbeat_throttle_interval=timedelta(seconds=0.3),
    ):
        handle = await client.start_workflow(SilentWorkflow.run, id=queue, task_queue=queue)
        await asyncio.sleep(3)
        for pending in (await handle.describe()).raw_description.pending_activities:
            (progress,) = await client.data_converter.decode(pending.heartbeat_details.payloads)
            assert progress == "half"
        assert await handle.result() == 1

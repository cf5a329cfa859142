"""Workflows that print labels and packing lists in bulk, and delete printed files once they have expired."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.fulfillment.labels import draw_part, merge_parts, purge_expired_documents
    from models.labels import PrintJob, PrintProgress

from workflows.repeating import HEARTBEAT_TIMEOUT

PART = 50
"""Fulfillment orders that one activity draws."""


@workflow.defn
class PrintWorkflow:
    """Labels or packing lists of many fulfillment orders in one file, drawn part by part."""

    @workflow.init
    def __init__(self, job: PrintJob) -> None:
        self._progress = PrintProgress(total=len(job.fulfillments))

    @workflow.run
    async def run(self, job: PrintJob) -> PrintProgress:
        """Draw the file. Its document has the workflow's id."""
        document = workflow.info().workflow_id
        retry = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))
        for part, at in enumerate(range(0, len(job.fulfillments), PART), 1):
            ids = job.fulfillments[at : at + PART]
            left_out = await workflow.execute_activity(
                draw_part,
                args=[job.model_copy(update={"fulfillments": ids}), document, part],
                start_to_close_timeout=timedelta(minutes=15),
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                schedule_to_close_timeout=timedelta(hours=1),
                retry_policy=retry,
                summary=f"{at + 1}-{at + len(ids)} / {len(job.fulfillments)}",
            )
            before = self._progress
            self._progress = PrintProgress(
                done=before.done + len(ids), total=before.total, left_out=before.left_out | left_out
            )
        await workflow.execute_activity(
            merge_parts,
            document,
            start_to_close_timeout=timedelta(minutes=5),
            schedule_to_close_timeout=timedelta(hours=1),
            retry_policy=retry,
        )
        return self._progress

    @workflow.query
    def progress(self) -> PrintProgress:
        return self._progress


@workflow.defn
class PurgeDocumentsWorkflow:
    """Delete printed files that have expired, every night by its schedule."""

    @workflow.run
    async def run(self) -> int:
        """Return the number of files deleted."""
        return await workflow.execute_activity(purge_expired_documents, start_to_close_timeout=timedelta(minutes=10))

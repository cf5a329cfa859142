"""PrintWorkflow: labels or packing lists of many fulfillment orders in one file, drawn part by part."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.fulfillment.labels import draw_part, merge_parts
    from models.labels import PrintJob, PrintProgress

PART = 50
"""So many fulfillment orders are drawn at once."""


@workflow.defn
class PrintWorkflow:
    @workflow.init
    def __init__(self, job: PrintJob) -> None:
        self._progress = PrintProgress(total=len(job.fulfillments))

    @workflow.run
    async def run(self, job: PrintJob) -> PrintProgress:
        """The file is the document that is called as the workflow."""
        document = workflow.info().workflow_id
        retry = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))
        for part, at in enumerate(range(0, len(job.fulfillments), PART), 1):
            ids = job.fulfillments[at : at + PART]
            left_out = await workflow.execute_activity(
                draw_part,
                args=[job.model_copy(update={"fulfillments": ids}), document, part],
                start_to_close_timeout=timedelta(minutes=15),
                heartbeat_timeout=timedelta(minutes=1),
                schedule_to_close_timeout=timedelta(hours=1),
                retry_policy=retry,
                summary=f"{at + 1}-{at + len(ids)} / {len(job.fulfillments)}",
            )
            known = self._progress
            self._progress = PrintProgress(
                done=known.done + len(ids), total=known.total, left_out=known.left_out | left_out
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

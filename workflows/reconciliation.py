"""ReconciliationWorkflow: compare a shop's orders with ours, every night by its schedule or on request."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.intake.reconciliation import Window, mark_failed, reconcile

from workflows.repeating import HEARTBEAT_TIMEOUT


@workflow.defn
class ReconciliationWorkflow:
    @workflow.run
    async def run(self, source: str, shop: str, window: Window | None = None) -> dict[str, int]:
        """Return the counts of the report, whose id is the workflow's. Fail if the channel refuses or is down."""
        report = workflow.info().workflow_id
        try:
            return await workflow.execute_activity(
                reconcile,
                args=[report, source, shop, window or Window()],
                start_to_close_timeout=timedelta(hours=2),
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                schedule_to_close_timeout=timedelta(hours=4),
                retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=5)),
                summary=f"{source} {shop}",
            )
        except ActivityError as error:
            await workflow.execute_activity(
                mark_failed, args=[report, str(error.cause)], start_to_close_timeout=timedelta(minutes=1)
            )
            raise

"""ReconciliationWorkflow: a shop's orders held against ours, every night by its schedule, or when somebody asks."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.intake.reconciliation import Window, mark_failed, reconcile


@workflow.defn
class ReconciliationWorkflow:
    @workflow.run
    async def run(self, source: str, shop: str, window: Window | None = None) -> dict[str, int]:
        """The counts of its report, whose id is the workflow's; fails where the channel refuses us, or is silent."""
        report = workflow.info().workflow_id
        try:
            return await workflow.execute_activity(
                reconcile,
                args=[report, source, shop, window or Window()],
                start_to_close_timeout=timedelta(hours=2),
                heartbeat_timeout=timedelta(minutes=5),
                schedule_to_close_timeout=timedelta(hours=4),
                retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=5)),
                summary=f"{source} {shop}",
            )
        except ActivityError as error:
            await workflow.execute_activity(
                mark_failed, args=[report, str(error.cause)], start_to_close_timeout=timedelta(minutes=1)
            )
            raise

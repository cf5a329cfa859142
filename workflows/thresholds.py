"""ThresholdsWorkflow: one check for low stock, started every minute by its schedule."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.stock.thresholds import ThresholdReport, watch_thresholds


@workflow.defn
class ThresholdsWorkflow:
    @workflow.run
    async def run(self) -> ThresholdReport:
        return await workflow.execute_local_activity(
            watch_thresholds,
            start_to_close_timeout=timedelta(seconds=50),
            schedule_to_close_timeout=timedelta(minutes=5),
        )

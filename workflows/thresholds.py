"""ThresholdsWorkflow: checks for low stock, every minute."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.stock.thresholds import ThresholdReport, watch_thresholds

from workflows.repeating import repeat


@workflow.defn
class ThresholdsWorkflow:
    @workflow.run
    async def run(self, every: float | None = None) -> ThresholdReport:
        async def check() -> ThresholdReport:
            return await workflow.execute_local_activity(
                watch_thresholds,
                start_to_close_timeout=timedelta(seconds=50),
                schedule_to_close_timeout=timedelta(minutes=5),
            )

        return await repeat(check, every)

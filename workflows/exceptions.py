"""ExceptionMonitorWorkflow: checks for fulfillment exceptions, every minute."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.fulfillment.exceptions import ExceptionReport, intercept_parcel, watch_exceptions
    from activities.fulfillment.tracking import poll_stale_tracking, subscribe_to_tracking

from workflows.repeating import HEARTBEAT_TIMEOUT, repeat


@workflow.defn
class ExceptionMonitorWorkflow:
    @workflow.run
    async def run(self, every: float | None = None) -> ExceptionReport:
        return await repeat(self._check, every)

    async def _check(self) -> ExceptionReport:
        """Open and close exceptions, intercept parcels where policy says so, then subscribe to and poll tracking."""
        report = await workflow.execute_local_activity(watch_exceptions, start_to_close_timeout=timedelta(seconds=50))
        for fulfillment_id in report.intercept:
            try:
                await workflow.execute_activity(
                    intercept_parcel,
                    fulfillment_id,
                    start_to_close_timeout=timedelta(seconds=60),
                    retry_policy=RetryPolicy(maximum_attempts=5),
                )
            except ActivityError as error:
                workflow.logger.warning("not intercepted: %s: %s", fulfillment_id, error.cause)
        for activity in (subscribe_to_tracking, poll_stale_tracking):
            await workflow.execute_activity(
                activity, start_to_close_timeout=timedelta(minutes=10), heartbeat_timeout=HEARTBEAT_TIMEOUT
            )
        return report

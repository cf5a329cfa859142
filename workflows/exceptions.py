"""ParcelsWorkflow: one look at what goes wrong with parcels, started every minute by its schedule; and what is done
about them at night."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.fulfillment.carrier_selection import measure_performance
    from activities.fulfillment.exceptions import ExceptionReport, intercept_parcel, watch_exceptions
    from activities.fulfillment.labels import purge_expired_documents
    from activities.fulfillment.tracking import poll_stale_tracking, subscribe_to_tracking


@workflow.defn
class ExceptionMonitorWorkflow:
    @workflow.run
    async def run(self) -> ExceptionReport:
        """Looks what is wrong, stops what policy wants stopped, has parcels followed, and asks after the silent."""
        watched = await workflow.execute_local_activity(watch_exceptions, start_to_close_timeout=timedelta(seconds=50))
        for fulfillment_id in watched.intercept:
            try:
                await workflow.execute_activity(
                    intercept_parcel,
                    fulfillment_id,
                    start_to_close_timeout=timedelta(seconds=60),
                    retry_policy=RetryPolicy(maximum_attempts=5),
                )
            except ActivityError as error:
                workflow.logger.warning("not stopped: %s: %s", fulfillment_id, error.cause)
        for ask in (subscribe_to_tracking, poll_stale_tracking):
            await workflow.execute_activity(
                ask, start_to_close_timeout=timedelta(minutes=10), heartbeat_timeout=timedelta(minutes=1)
            )
        return watched


@workflow.defn
class CarrierPerformanceWorkflow:
    @workflow.run
    async def run(self) -> int:
        """Measures how carriers did, and throws away what was printed and can be had no more."""
        await workflow.execute_activity(purge_expired_documents, start_to_close_timeout=timedelta(minutes=10))
        return await workflow.execute_activity(measure_performance, start_to_close_timeout=timedelta(minutes=10))

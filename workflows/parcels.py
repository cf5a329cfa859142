"""ParcelsWorkflow: one look at what goes wrong with parcels, started every minute by its schedule; and what is done
about them at night."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.exceptions import Watched, intercept_parcel, watch_exceptions
    from activities.labels import throw_old_away
    from activities.selection import measure_service
    from activities.tracking import ask_after_silent, follow_parcels


@workflow.defn
class ParcelsWorkflow:
    @workflow.run
    async def run(self) -> Watched:
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
        for ask in (follow_parcels, ask_after_silent):
            await workflow.execute_activity(
                ask, start_to_close_timeout=timedelta(minutes=10), heartbeat_timeout=timedelta(minutes=1)
            )
        return watched


@workflow.defn
class ServiceWorkflow:
    @workflow.run
    async def run(self) -> int:
        """Measures how carriers did, and throws away what was printed and can be had no more."""
        await workflow.execute_activity(throw_old_away, start_to_close_timeout=timedelta(minutes=10))
        return await workflow.execute_activity(measure_service, start_to_close_timeout=timedelta(minutes=10))

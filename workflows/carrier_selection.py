"""CarrierPerformanceWorkflow: measures every night how carriers performed."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.fulfillment.carrier_selection import measure_performance


@workflow.defn
class CarrierPerformanceWorkflow:
    @workflow.run
    async def run(self) -> int:
        """Return the number of lanes measured."""
        return await workflow.execute_activity(measure_performance, start_to_close_timeout=timedelta(minutes=10))

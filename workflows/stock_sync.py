"""StockSyncWorkflow: send one shop its sellable quantities for a while; the shop's schedule starts the next turn."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.stock.stock_sync import SyncReport, watch_stock


@workflow.defn
class StockSyncWorkflow:
    @workflow.run
    async def run(self, source: str, shop: str) -> SyncReport:
        """Fail if the channel refuses; the next turn tries again."""
        return await workflow.execute_activity(
            watch_stock,
            args=[source, shop],
            start_to_close_timeout=timedelta(minutes=15),
            heartbeat_timeout=timedelta(seconds=45),
            schedule_to_close_timeout=timedelta(hours=1),
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1)),
            summary=f"{source} {shop}",
        )

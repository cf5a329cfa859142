"""StockSyncWorkflow: send one shop its sellable quantities, one turn after another."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.stock.stock_sync import SyncReport, watch_stock

from workflows.repeating import HEARTBEAT_TIMEOUT, repeat


@workflow.defn
class StockSyncWorkflow:
    @workflow.run
    async def run(self, source: str, shop: str, every: float | None = None) -> SyncReport:
        """Fail if the channel refuses; the shop's schedule starts the next turn."""

        async def turn() -> SyncReport:
            return await workflow.execute_activity(
                watch_stock,
                args=[source, shop],
                start_to_close_timeout=timedelta(minutes=15),
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                schedule_to_close_timeout=timedelta(hours=1),
                retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1)),
                summary=f"{source} {shop}",
            )

        return await repeat(turn, every, source, shop)

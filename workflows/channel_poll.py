"""ChannelPollWorkflow: one pull of one shop's orders, started by the shop's schedule."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.intake.polling import PollReport, pull_orders


@workflow.defn
class ChannelPollWorkflow:
    @workflow.run
    async def run(self, source: str, shop: str) -> PollReport:
        """Fails where the channel refuses us, or is silent for an hour: the next poll takes up from there."""
        return await workflow.execute_activity(
            pull_orders,
            args=[source, shop],
            start_to_close_timeout=timedelta(minutes=30),
            heartbeat_timeout=timedelta(minutes=2),
            schedule_to_close_timeout=timedelta(hours=1),
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=2)),
            summary=f"{source} {shop}",
        )

"""ChannelReadWorkflow: reads the orders of a shop that its channel only named."""

from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.intake.polling import read_orders

AT_ONCE = 50
HISTORY_LIMIT = 1500
"""Events after which the rest is read in a new history."""


@workflow.defn
class ChannelReadWorkflow:
    def __init__(self) -> None:
        self._wanted: dict[str, None] = {}

    @workflow.run
    async def run(self, source: str, shop: str, numbers: list[str]) -> None:
        """Ends when nothing is left to read; what cannot be read for an hour is left to polling."""
        self.read(numbers)
        while self._wanted:
            if workflow.info().get_current_history_length() > HISTORY_LIMIT:
                workflow.continue_as_new(args=[source, shop, list(self._wanted)])
            numbers = list(self._wanted)[:AT_ONCE]
            for number in numbers:
                del self._wanted[number]
            with suppress(ActivityError):
                await workflow.execute_activity(
                    read_orders,
                    args=[source, shop, numbers],
                    start_to_close_timeout=timedelta(minutes=10),
                    heartbeat_timeout=timedelta(minutes=1),
                    schedule_to_close_timeout=timedelta(hours=1),
                    retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=2)),
                    summary=f"{source} {shop}: {len(numbers)}",
                )

    @workflow.signal(description="Orders to be read, by their numbers")
    def read(self, numbers: list[str]) -> None:
        self._wanted |= dict.fromkeys(numbers)

"""Workflows that read orders from a channel: a shop's scheduled polls, and orders that its channel only named."""

from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.intake.polling import PollReport, pull_orders, read_orders

from workflows.repeating import HEARTBEAT_TIMEOUT, repeat

BATCH = 50
"""Orders that one activity reads."""
HISTORY_LIMIT = 1500
"""Events after which the remaining orders are read in a new history."""


@workflow.defn
class ChannelPollWorkflow:
    """The polls of one shop's orders, started by the shop's schedule."""

    @workflow.run
    async def run(self, source: str, shop: str, every: float | None = None) -> PollReport:
        """Fail if the channel refuses or is unavailable for an hour; the next poll continues from the cursor."""

        async def poll() -> PollReport:
            return await workflow.execute_activity(
                pull_orders,
                args=[source, shop],
                start_to_close_timeout=timedelta(minutes=30),
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                schedule_to_close_timeout=timedelta(hours=1),
                retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=2)),
                summary=f"{source} {shop}",
            )

        return await repeat(poll, every, source, shop)


@workflow.defn
class ChannelReadWorkflow:
    """Read the orders of a shop whose channel sent only their numbers."""

    def __init__(self) -> None:
        self._unread: dict[str, None] = {}

    @workflow.run
    async def run(self, source: str, shop: str, numbers: list[str]) -> None:
        """End when no order is left to read. Orders that cannot be read for an hour are left to polling."""
        self.read(numbers)
        while self._unread:
            if workflow.info().get_current_history_length() > HISTORY_LIMIT:
                workflow.continue_as_new(args=[source, shop, list(self._unread)])
            numbers = list(self._unread)[:BATCH]
            for number in numbers:
                del self._unread[number]
            with suppress(ActivityError):
                await workflow.execute_activity(
                    read_orders,
                    args=[source, shop, numbers],
                    start_to_close_timeout=timedelta(minutes=10),
                    heartbeat_timeout=HEARTBEAT_TIMEOUT,
                    schedule_to_close_timeout=timedelta(hours=1),
                    retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=2)),
                    summary=f"{source} {shop}: {len(numbers)}",
                )

    @workflow.signal(description="Read orders, by the channel's order numbers")
    def read(self, numbers: list[str]) -> None:
        self._unread |= dict.fromkeys(numbers)

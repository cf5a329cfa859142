"""NotificationsWorkflow: one run that creates and sends notifications, started by its schedule."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.notifications.delivery import DeliveryReport, deliver


@workflow.defn
class NotificationsWorkflow:
    @workflow.run
    async def run(self) -> DeliveryReport:
        return await workflow.execute_activity(
            deliver, start_to_close_timeout=timedelta(minutes=10), retry_policy=RetryPolicy(maximum_attempts=1)
        )

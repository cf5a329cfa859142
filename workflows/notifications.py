"""NotificationsWorkflow: create and send notifications, every half a minute."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.notifications.delivery import DeliveryReport, deliver

from workflows.repeating import repeat


@workflow.defn
class NotificationsWorkflow:
    @workflow.run
    async def run(self, every: float | None = None) -> DeliveryReport:
        async def send() -> DeliveryReport:
            return await workflow.execute_activity(
                deliver, start_to_close_timeout=timedelta(minutes=10), retry_policy=RetryPolicy(maximum_attempts=1)
            )

        return await repeat(send, every)

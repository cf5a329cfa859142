"""ReplenishmentWorkflow: suggest purchases, every night by its schedule or on request."""

from datetime import date, timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.stock.replenishment import Progress, suggest_purchases
    from models.base import CHINA

from workflows.repeating import HEARTBEAT_TIMEOUT


@workflow.defn
class ReplenishmentWorkflow:
    @workflow.run
    async def run(self) -> Progress:
        today: date = workflow.now().astimezone(CHINA).date()
        return await workflow.execute_activity(
            suggest_purchases,
            today,
            start_to_close_timeout=timedelta(hours=6),
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
        )

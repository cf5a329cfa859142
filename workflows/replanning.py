"""ReplanWorkflow: every order that has something to leave a warehouse yet is told to leave from elsewhere."""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.allocation.replanning import orders_to_leave
    from models.base import Value
    from models.requests import Replan

PAGE = 100
PAGES = 4
"""In one history: each order told is three events."""


class ReplanInput(Value):
    """``after`` and ``told`` are set where an earlier history was continued as new."""

    warehouse: str
    reason: str
    actor: str
    after: str = ""
    told: int = 0


@workflow.defn
class ReplanWorkflow:
    @workflow.init
    def __init__(self, given: ReplanInput) -> None:
        self._told = given.told

    @workflow.run
    async def run(self, given: ReplanInput) -> int:
        """How many orders were told. An order that ends meanwhile is none."""
        after = given.after
        for _ in range(PAGES):
            orders = await workflow.execute_local_activity(
                orders_to_leave,
                args=[given.warehouse, after, PAGE],
                start_to_close_timeout=timedelta(seconds=30),
                retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=1)),
            )
            self._told += sum(await asyncio.gather(*(self._tell(order, given) for order in orders)))
            if len(orders) < PAGE:
                return self._told
            after = orders[-1]
        workflow.continue_as_new(given.model_copy(update={"after": after, "told": self._told}))

    async def _tell(self, order_id: str, given: ReplanInput) -> bool:
        wish = Replan(
            request_id=f"{workflow.info().workflow_id}:{order_id}"[:200],
            actor=given.actor,
            warehouse=given.warehouse,
            reason=given.reason,
        )
        try:
            await workflow.get_external_workflow_handle(order_id).signal("replan", wish)
        except ApplicationError:
            return False
        return True

    @workflow.query(description="How many orders were told so far")
    def told(self) -> int:
        return self._told

"""ReplanWorkflow: request a replan from every order that has something to ship from one warehouse."""

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
"""Pages in one history: each order costs three events."""


class ReplanInput(Value):
    """``after`` and ``requested`` are set where an earlier history was continued as new."""

    warehouse: str
    reason: str
    actor: str
    after: str = ""
    requested: int = 0


@workflow.defn
class ReplanWorkflow:
    @workflow.init
    def __init__(self, given: ReplanInput) -> None:
        self._requested = given.requested

    @workflow.run
    async def run(self, given: ReplanInput) -> int:
        """Return the number of orders that received the request. Orders that have ended meanwhile do not count."""
        after = given.after
        for _ in range(PAGES):
            orders = await workflow.execute_local_activity(
                orders_to_leave,
                args=[given.warehouse, after, PAGE],
                start_to_close_timeout=timedelta(seconds=30),
                retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=1)),
            )
            self._requested += sum(await asyncio.gather(*(self._request(order, given) for order in orders)))
            if len(orders) < PAGE:
                return self._requested
            after = orders[-1]
        workflow.continue_as_new(given.model_copy(update={"after": after, "requested": self._requested}))

    async def _request(self, order_id: str, given: ReplanInput) -> bool:
        request = Replan(
            request_id=f"{workflow.info().workflow_id}:{order_id}"[:200],
            actor=given.actor,
            warehouse=given.warehouse,
            reason=given.reason,
        )
        try:
            await workflow.get_external_workflow_handle(order_id).signal("replan", request)
        except ApplicationError:
            return False
        return True

    @workflow.query(description="How many orders have received the request so far")
    def requested(self) -> int:
        return self._requested

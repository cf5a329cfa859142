"""The fulfillment orders of an order, each processed from booking to doorstep, or recalled on the way."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from workflows.order.context import OrderContext, failure_code, failure_message, reference

with workflow.unsafe.imports_passed_through():
    from activities.fulfillment import steps as fulfillment_activities
    from activities.orders import steps as order_activities
    from models.exceptions import ExceptionKind
    from models.fulfillment import Fulfillment, FulfillmentStatus, RequestStatus, TrackingStatus
    from models.hold import HoldKind
    from workflows.order.details import render_details

Result = TypeVar("Result")


class FulfillmentProcess:
    """One fulfillment order: book, release, wait for shipment, notify the channel, wait for delivery.

    A process may start again at any step: what its fulfillment order shows as done is not repeated.
    """

    def __init__(self, order: OrderContext, fulfillment: Fulfillment) -> None:
        self._order = order
        self._fulfillment = fulfillment
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        fulfillment = self._fulfillment
        if fulfillment.status is FulfillmentStatus.SCHEDULED:
            await workflow.wait_condition(lambda: fulfillment.status is not FulfillmentStatus.SCHEDULED)
        await self._book()
        await self._release()
        self._stop_if_withdrawn()
        workflow.set_current_details(render_details(self._order.state))
        await workflow.wait_condition(
            lambda: fulfillment.shipped_at is not None or fulfillment.request_status is RequestStatus.REJECTED
        )
        if fulfillment.shipped_at is None:
            await self._return_for_replanning()
            return
        if not fulfillment.deducted:
            fulfillment.deducted = True
            self._add_entry("shipped", fulfillment.shipped_at)
            await self._order.write(order_activities.ship, fulfillment)
        if not fulfillment.channel_notified:
            await self._notify_channel()
        await workflow.wait_condition(lambda: fulfillment.is_closed)
        if fulfillment.tracking is TrackingStatus.RETURNED:
            self._add_entry("restocked", workflow.now())
            await self._order.write(order_activities.restock, fulfillment)

    async def _book(self) -> None:
        fulfillment = self._fulfillment
        while fulfillment.waybill_no is None:
            if waybill := await self._attempt(fulfillment_activities.book_waybill, HoldKind.BOOKING):
                fulfillment.carrier, fulfillment.waybill_no = waybill.carrier, waybill.waybill_no

    async def _release(self) -> None:
        """Release to the warehouse. A warehouse event that arrives during the call takes precedence over its answer."""
        fulfillment = self._fulfillment
        while fulfillment.request_status is RequestStatus.UNSUBMITTED:
            answer = await self._attempt(fulfillment_activities.release_to_warehouse, HoldKind.WAREHOUSE)
            if answer and fulfillment.request_status is RequestStatus.UNSUBMITTED:
                fulfillment.request_status = answer

    async def _attempt(self, activity: Callable[[str], Awaitable[Result]], kind: HoldKind) -> Result | None:
        """Call an external system once nothing blocks the order; place a hold and return ``None`` if it refuses."""
        await workflow.wait_condition(lambda: not self._order.state.blocked)
        self._stop_if_withdrawn()
        try:
            return await self._order.call(activity, self._fulfillment)
        except ActivityError as error:
            self._stop_if_withdrawn()
            if is_cancelled_exception(error):
                raise asyncio.CancelledError from error
            if failure_code(error) == "rejected":
                self._fulfillment.request_status = RequestStatus.REJECTED
            else:
                self._order.place_hold(kind, failure_message(error))
            return None

    def _stop_if_withdrawn(self) -> None:
        """Raise ``CancelledError`` during a withdrawal: a call that completes as it is cancelled hides it."""
        if self._fulfillment.status is FulfillmentStatus.ON_HOLD:
            raise asyncio.CancelledError

    async def _notify_channel(self) -> None:
        fulfillment = self._fulfillment
        try:
            await self._order.call(fulfillment_activities.confirm_shipment, fulfillment)
            fulfillment.channel_notified = True
        except ActivityError as error:
            self._order.open_exception(ExceptionKind.CHANNEL_REFUSED, fulfillment, reason=failure_message(error))

    async def _return_for_replanning(self) -> None:
        """Cancel what the warehouse rejected, and plan its lines again.

        The warehouse is excluded, unless missing stock was its reason for the first time.
        """
        fulfillment, state = self._fulfillment, self._order.state
        await self._cancel_waybill()
        async with self._order.lock:
            fulfillment.status = FulfillmentStatus.CANCELLED
            if not fulfillment.shortfalls or self._rejected_before():
                state.exclude_warehouse(fulfillment.warehouse)
            state.to_plan = True
            await self._order.write(order_activities.reject, fulfillment)

    def _rejected_before(self) -> bool:
        """Return whether the same warehouse has rejected this order before: correcting the stock did not help."""
        return any(
            each.warehouse == self._fulfillment.warehouse and each.request_status is RequestStatus.REJECTED
            for each in self._order.state.fulfillments
            if each is not self._fulfillment
        )

    async def withdraw(self) -> bool:
        """Stop the process and recall the fulfillment order; return whether the warehouse accepted the recall."""
        self._fulfillment.status = FulfillmentStatus.ON_HOLD
        self.task.cancel()
        await workflow.wait([self.task])
        if not await self._recall():
            return False
        await self._cancel_waybill()
        return True

    async def _recall(self) -> bool:
        """Recall from the warehouse. A shipment reported during the call overrides an accepted recall."""
        fulfillment = self._fulfillment
        try:
            accepted = (await self._order.call(fulfillment_activities.recall_from_warehouse, fulfillment)).accepted
        except ActivityError:
            accepted = False
        if not accepted and not fulfillment.has_shipped:
            fulfillment.status = FulfillmentStatus.OPEN
        return accepted and not fulfillment.has_shipped

    async def _cancel_waybill(self) -> None:
        try:
            await self._order.call(fulfillment_activities.cancel_waybill, self._fulfillment)
        except ActivityError as error:
            reason = failure_message(error)
            self._order.open_exception(ExceptionKind.WAYBILL_NOT_CANCELLED, self._fulfillment, reason=reason)

    def _add_entry(self, what: str, at: datetime) -> None:
        fulfillment = self._fulfillment
        self._order.state.add_timeline_entry(f"{what}:{fulfillment.id}", at, what, **reference(fulfillment))


class FulfillmentProcesses:
    """The processes of all active fulfillment orders of one order."""

    def __init__(self, order: OrderContext) -> None:
        self._order = order
        self._by_id: dict[str, FulfillmentProcess] = {}

    def start(self) -> None:
        """Start the process of every active fulfillment order that has none."""
        for each in self._order.state.active:
            if each.id not in self._by_id:
                self._by_id[each.id] = FulfillmentProcess(self._order, each)

    async def finish(self) -> None:
        """Wait until every process has ended."""
        await asyncio.gather(*(each.task for each in self._by_id.values()))

    async def withdraw(self, fulfillments: Sequence[Fulfillment]) -> list[bool]:
        """Recall fulfillment orders and cancel those whose warehouse agrees; the processes of the others go on.

        Return for each whether it was cancelled. The caller settles the stock of those that were.
        """
        return await asyncio.gather(*(self._withdraw(each) for each in fulfillments))

    async def _withdraw(self, fulfillment: Fulfillment) -> bool:
        process = self._by_id.pop(fulfillment.id, None)
        if process is not None and not await process.withdraw():
            self._by_id[fulfillment.id] = FulfillmentProcess(self._order, fulfillment)
            return False
        fulfillment.status = FulfillmentStatus.CANCELLED
        return True

    async def recall_all(self) -> bool:
        """Withdraw every fulfillment order; ``False`` if one has shipped or its warehouse refuses."""
        state = self._order.state
        if any(each.has_shipped for each in state.active):
            return False
        withdrawn = await self.withdraw(state.active)
        if any(withdrawn):
            state.to_plan = True
            await self._order.settle()
        return all(withdrawn)

    async def recall_for_hold(self, fulfillments: Sequence[Fulfillment]) -> None:
        """Withdraw what a new hold stops from shipping; open an exception where the warehouse refuses."""
        state = self._order.state
        withdrawn = await self.withdraw(fulfillments)
        for each, accepted in zip(fulfillments, withdrawn, strict=True):
            if not accepted:
                self._order.open_exception(ExceptionKind.HELD_TOO_LATE, each)
        if any(withdrawn):
            state.to_plan = True
            await self._order.settle()

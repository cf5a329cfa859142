"""The fulfillment orders of an order, each processed from booking to doorstep, or recalled on the way."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from workflows.order.context import (
    BOUNDED_REQUESTS,
    COMPLETE_UNNOTIFIED,
    RECALL_LIMIT,
    OrderContext,
    failure_code,
    failure_message,
    reference,
)

with workflow.unsafe.imports_passed_through():
    from activities.fulfillment import steps as fulfillment_activities
    from activities.orders import steps as order_activities
    from models.exceptions import ExceptionKind
    from models.fulfillment import Fulfillment, FulfillmentStatus, RequestStatus, TrackingStatus
    from models.hold import HoldKind
    from workflows.order.details import render_details

Result = TypeVar("Result")


class FulfillmentProcess:
    """One fulfillment order: book, release, wait for shipment, notify the channel meanwhile, wait for delivery.

    A process may start again at any step: what its fulfillment order shows as done is not repeated.
    """

    def __init__(self, order: OrderContext, fulfillment: Fulfillment) -> None:
        self._order = order
        self._fulfillment = fulfillment
        self._withdrawn = False
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
        if fulfillment.shipped_at is None and await self._return_for_replanning():
            return
        if not fulfillment.deducted:
            fulfillment.deducted = True
            self._add_entry("shipped", fulfillment.shipped_at or workflow.now())
            await self._order.write(order_activities.ship, fulfillment)
        notification = None if fulfillment.channel_notified else self._order.in_background(self._notify_channel())
        await workflow.wait_condition(lambda: fulfillment.is_closed)
        if notification is not None and not notification.done() and not workflow.patched(COMPLETE_UNNOTIFIED):
            await notification
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
        if self._withdrawn:
            raise asyncio.CancelledError

    async def _notify_channel(self) -> None:
        fulfillment = self._fulfillment
        fulfillment.channel_notified = await self._order.call_persistently(
            fulfillment_activities.confirm_shipment, fulfillment, ExceptionKind.CHANNEL_REFUSED
        )

    async def _return_for_replanning(self) -> bool:
        """Cancel what the warehouse rejected, and plan its lines again; ``False`` if it shipped after all.

        The warehouse is excluded, unless missing stock was its reason for the first time.
        """
        fulfillment, state = self._fulfillment, self._order.state
        if not workflow.patched(BOUNDED_REQUESTS):
            await self._void_waybill()
        async with self._order.lock:
            if fulfillment.has_shipped:
                return False
            fulfillment.status = FulfillmentStatus.CANCELLED
            if workflow.patched(BOUNDED_REQUESTS):
                self._order.in_background(self._void_waybill())
            if not fulfillment.shortfalls or self._rejected_before():
                state.exclude_warehouse(fulfillment.warehouse)
            state.to_plan = True
            await self._order.write(order_activities.reject, fulfillment)
        return True

    def _rejected_before(self) -> bool:
        """Return whether the same warehouse has rejected this order before: correcting the stock did not help."""
        return any(
            each.warehouse == self._fulfillment.warehouse and each.request_status is RequestStatus.REJECTED
            for each in self._order.state.fulfillments
            if each is not self._fulfillment
        )

    async def withdraw(self) -> bool:
        """Stop the process and recall the fulfillment order; return whether the warehouse accepted the recall.

        A warehouse that does not answer in time has not accepted. The waybill is voided in the background.
        """
        fulfillment = self._fulfillment
        fulfillment.status = FulfillmentStatus.ON_HOLD
        self._withdrawn = True
        self.task.cancel()
        in_background = workflow.patched(BOUNDED_REQUESTS)
        if in_background and fulfillment.waybill_no is None:
            accepted = True  # what is not booked was not released; the carrier may still be answering
        else:
            await workflow.wait([self.task])
            accepted = await self._recall()
            if accepted and not in_background:
                await self._void_waybill()
        if fulfillment.has_shipped:
            return False
        if not accepted:
            fulfillment.status = FulfillmentStatus.OPEN
            return False
        fulfillment.status = FulfillmentStatus.CANCELLED
        if in_background:
            self._order.in_background(self._void_waybill())
        return True

    async def _recall(self) -> bool:
        try:
            call = self._order.call(fulfillment_activities.recall_from_warehouse, self._fulfillment, RECALL_LIMIT)
            return (await call).accepted
        except ActivityError:
            return False

    async def _void_waybill(self) -> None:
        """Cancel the booking, once a booking that is still under way has ended."""
        if self._withdrawn:
            await workflow.wait([self.task])
        await self._order.call_persistently(
            fulfillment_activities.cancel_waybill, self._fulfillment, ExceptionKind.WAYBILL_NOT_CANCELLED
        )

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

    @property
    def ended(self) -> bool:
        """Whether every process has ended, and none may start again because a recall was refused."""
        return not self._order.lock.locked() and all(each.task.done() for each in self._by_id.values())

    def check(self) -> None:
        """Raise what made a process fail, if one did."""
        for each in self._by_id.values():
            each.task.result()

    async def withdraw(self, fulfillments: Sequence[Fulfillment]) -> list[bool]:
        """Recall fulfillment orders and cancel those whose warehouse agrees; the processes of the others go on.

        Return for each whether it was cancelled. The caller settles the stock of those that were.
        """
        return await asyncio.gather(*(self._withdraw(each) for each in fulfillments))

    async def _withdraw(self, fulfillment: Fulfillment) -> bool:
        """Withdraw what has not shipped. Its process is known throughout, so that the order does not end without it."""
        if fulfillment.has_shipped:
            return False
        process = self._by_id.get(fulfillment.id)
        if process is None:
            fulfillment.status = FulfillmentStatus.CANCELLED
            return True
        if not await process.withdraw():
            self._by_id[fulfillment.id] = FulfillmentProcess(self._order, fulfillment)
            return False
        del self._by_id[fulfillment.id]
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

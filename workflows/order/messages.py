"""The messages of the order workflow.

Requests come from people and channels: each is a signal, for the Temporal UI and CLI, and an update, which answers yes
or no with a reason. The update's validator refuses what the order's status forbids without leaving a trace in the
history; the handler may still answer no, for example when a warehouse has already shipped.

Facts come from channels, warehouses, carriers and the stock: each is a signal, and nothing is refused.
"""

from abc import abstractmethod
from collections.abc import Sequence
from difflib import get_close_matches

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from workflows.order.context import OrderContext, reference
from workflows.order.fulfillment_process import FulfillmentProcesses

with workflow.unsafe.imports_passed_through():
    from activities.orders import steps as order_activities
    from models.exceptions import ExceptionKind
    from models.exchange_rates import NO_RATE
    from models.fulfillment import PROBLEM_STATUSES, FulfillmentStatus, RequestStatus
    from models.hold import Hold, HoldKind
    from models.i18n import message
    from models.order import RefundState
    from models.requests import (
        YES,
        Answer,
        Approve,
        Cancel,
        Expedite,
        HoldRequest,
        Modify,
        Note,
        Payment,
        PaymentReversed,
        Refunding,
        Reject,
        Release,
        Remark,
        Reopened,
        Replan,
        Request,
        StockArrived,
        Tracking,
        WarehouseEvent,
        WarehouseEventKind,
        no,
    )
    from models.state import Action, End, OrderState, after_end


_REVERSED = "hold.channel.unpaid"


class OrderMessages(OrderContext):
    """The message handlers of the order workflow."""

    processes: FulfillmentProcesses

    @abstractmethod
    async def act(self, action: Action, request: Request) -> Answer:
        """Carry out a request once; answer a repetition of its id with the first answer."""

    def check(self, action: Action, request: Request) -> None:
        """Raise ``ApplicationError`` of type ``Refused``, detail ``Answer``, if the status forbids the action."""
        if request.request_id not in self.state.answers:
            answer = self.state.allows(action)
            if not answer.accepted:
                answer = self.state.explain(action, answer)
                raise ApplicationError(answer.text, answer, type="Refused", non_retryable=True)

    @workflow.signal(dynamic=True)
    def unknown_signal(self, name: str, arguments: Sequence[RawValue]) -> None:
        """Note a signal that no handler is named for, with the name that was probably meant."""
        near = get_close_matches(name, list(Action), 1)
        why = message("not_understood.near", name=near[0]) if near else message("not_understood.unknown")
        self.note_not_understood(name, why)

    # Requests

    @workflow.signal(name="cancel", description='Cancel: {"request_id": "...", "actor": "...", "reason": "..."}')
    async def signal_cancel(self, request: Cancel) -> None:
        await self.act(Action.CANCEL, request)

    @workflow.update(name="cancel", description="Cancel; recalls the order from its warehouses first")
    async def cancel(self, request: Cancel) -> Answer:
        return await self.act(Action.CANCEL, request)

    @cancel.validator
    def check_cancel(self, request: Cancel) -> None:
        self.check(Action.CANCEL, request)

    @workflow.signal(name="modify", description="Change the recipient or quantities; see docs/operations.md")
    async def signal_modify(self, request: Modify) -> None:
        await self.act(Action.MODIFY, request)

    @workflow.update(name="modify", description="Change the recipient or quantities")
    async def modify(self, request: Modify) -> Answer:
        return await self.act(Action.MODIFY, request)

    @modify.validator
    def check_modify(self, request: Modify) -> None:
        self.check(Action.MODIFY, request)

    @workflow.signal(name="hold", description="Place a hold on the order")
    async def signal_hold(self, request: HoldRequest) -> None:
        await self.act(Action.HOLD, request)

    @workflow.update(name="hold", description="Place a hold on the order")
    async def hold(self, request: HoldRequest) -> Answer:
        return await self.act(Action.HOLD, request)

    @hold.validator
    def check_hold(self, request: HoldRequest) -> None:
        self.check(Action.HOLD, request)

    @workflow.signal(name="release", description="Lift the holds of one kind, or all holds")
    async def signal_release(self, request: Release) -> None:
        await self.act(Action.RELEASE, request)

    @workflow.update(name="release", description="Lift the holds of one kind, or all holds")
    async def release(self, request: Release) -> Answer:
        return await self.act(Action.RELEASE, request)

    @release.validator
    def check_release(self, request: Release) -> None:
        self.check(Action.RELEASE, request)

    @workflow.signal(name="approve", description="Review: approve the order")
    async def signal_approve(self, request: Approve) -> None:
        await self.act(Action.APPROVE, request)

    @workflow.update(name="approve", description="Review: approve the order")
    async def approve(self, request: Approve) -> Answer:
        return await self.act(Action.APPROVE, request)

    @approve.validator
    def check_approve(self, request: Approve) -> None:
        self.check(Action.APPROVE, request)

    @workflow.signal(name="reject", description="Review: reject the order, which ends it")
    async def signal_reject(self, request: Reject) -> None:
        await self.act(Action.REJECT, request)

    @workflow.update(name="reject", description="Review: reject the order, which ends it")
    async def reject(self, request: Reject) -> Answer:
        return await self.act(Action.REJECT, request)

    @reject.validator
    def check_reject(self, request: Reject) -> None:
        self.check(Action.REJECT, request)

    @workflow.signal(name="expedite", description="Make the order urgent")
    async def signal_expedite(self, request: Expedite) -> None:
        await self.act(Action.EXPEDITE, request)

    @workflow.update(name="expedite", description="Make the order urgent")
    async def expedite(self, request: Expedite) -> Answer:
        return await self.act(Action.EXPEDITE, request)

    @expedite.validator
    def check_expedite(self, request: Expedite) -> None:
        self.check(Action.EXPEDITE, request)

    @workflow.signal(name="replan", description="Plan again, at other warehouses, what has not shipped")
    async def signal_replan(self, request: Replan) -> None:
        await self.act(Action.REPLAN, request)

    @workflow.update(name="replan", description="Plan again, at other warehouses, what has not shipped")
    async def replan(self, request: Replan) -> Answer:
        return await self.act(Action.REPLAN, request)

    @replan.validator
    def check_replan(self, request: Replan) -> None:
        self.check(Action.REPLAN, request)

    @workflow.signal(name="note", description="Add a note to the order's timeline")
    async def signal_note(self, request: Note) -> None:
        await self.act(Action.NOTE, request)

    @workflow.update(name="note", description="Add a note to the order's timeline")
    async def note(self, request: Note) -> Answer:
        return await self.act(Action.NOTE, request)

    @note.validator
    def check_note(self, request: Note) -> None:
        self.check(Action.NOTE, request)

    # Facts

    @workflow.signal(description="The channel reports the payment")
    async def payment(self, fact: Payment) -> None:
        """Record the payment, and review the paid order again before anything is allocated."""
        state = self.state
        async with self.lock:
            if state.order.paid_at is not None or self._too_late(fact):
                return
            was_waiting = state.admitted and not state.order.payable
            collected = state.order.owed > 0
            reversed_before = any(each.reason == _REVERSED for each in state.holds)
            state.order = state.order.model_copy(update={"paid_at": fact.paid_at})
            state.holds = [each for each in state.holds if each.reason != _REVERSED]
            key = f"paid:{fact.paid_at.isoformat()}" if reversed_before else "paid"
            state.add_timeline_entry(key, workflow.now(), "paid", fact.actor)
            if collected and state.active and workflow.patched("collect-no-more"):
                await self._collect_no_more(fact)
            if was_waiting and workflow.patched("review-paid") and not state.status.final:
                await self._remap_and_review(just_paid=True)

    def _too_late(self, fact: Request) -> bool:
        """Whether the order has ended and only its calls go on; open the exceptions of such a late fact."""
        if self.state.status.final:
            for kind, about, detail in after_end(fact, None):
                self.open_exception(kind, None, about, **detail)
        return self.state.status.final

    async def _collect_no_more(self, fact: Payment) -> None:
        """Recall parcels whose carrier would collect what is now paid; open an exception for those on their way."""
        state = self.state
        unshipped = [each for each in state.active if not each.has_shipped]
        await self.processes.recall_for_hold(unshipped)
        for each in state.active:
            if each.has_shipped and not each.is_closed:
                changes = f"collect {state.order.total} → 0"
                self.open_exception(ExceptionKind.CHANNEL_MODIFY, each, about=fact.request_id, changes=changes)

    @workflow.signal(description="The channel no longer counts the order as paid")
    async def payment_reversed(self, fact: PaymentReversed) -> None:
        """Hold the order and recall its goods; open an exception for those that have left."""
        state = self.state
        async with self.lock:
            if state.order.paid_at is None or self._too_late(fact):
                return
            state.order = state.order.model_copy(update={"paid_at": None})
            state.add_timeline_entry(fact.request_id, workflow.now(), "payment_reversed", fact.actor)
            unshipped = [each for each in state.active if not each.has_shipped]
            if unshipped or not state.active or state.to_plan or state.shortages:
                self.place_hold(HoldKind.CHANNEL, _REVERSED, fact.actor)
                await self.processes.recall_for_hold(unshipped)
            if any(each.has_shipped for each in state.active):
                self.open_exception(ExceptionKind.PAYMENT_REVERSED, about=fact.request_id)

    @workflow.signal(description="The channel took back its cancellation")
    def reopened(self, fact: Reopened) -> None:
        self.open_exception(ExceptionKind.CHANNEL_REOPENED, about=fact.request_id)

    @workflow.signal(description="The buyer or the seller changed a remark")
    async def remark(self, fact: Remark) -> None:
        """Review the new remark; recall what has not shipped if a rule now holds the order."""
        state = self.state
        async with self.lock:
            if state.status.final:
                return
            revised = await self.run_step(order_activities.review_remark, state, fact, workflow.now())
            state.order = revised.order
            state.add_timeline_entry(fact.request_id, workflow.now(), "remarked", fact.actor)
            unshipped = [each for each in state.active if not each.has_shipped]
            if revised.holds and (unshipped or not state.active):
                for hold in revised.holds:
                    state.hold(hold)
                await self.processes.recall_for_hold(unshipped)

    @workflow.signal(description="The buyer asked for a refund, or the channel decided on one")
    async def refund(self, fact: Refunding) -> None:
        """Hold the order and recall the goods of an open refund; lift the hold once every refund is decided."""
        state, refund = self.state, fact.refund
        async with self.lock:
            known = {each.refund_no: each for each in state.order.refunds}
            earlier = known.get(refund.refund_no)
            if earlier == refund or (earlier is not None and earlier.outlasts(refund)) or self._too_late(fact):
                return
            known[refund.refund_no] = refund
            state.order = state.order.model_copy(update={"refunds": tuple(known.values())})
            detail = refund.model_dump(mode="json", include={"refund_no", "amount", "line_no", "quantity", "reason"})
            state.add_timeline_entry(fact.request_id, workflow.now(), f"refund.{refund.state}", fact.actor, **detail)
            affected = [each for each in state.active if each.carries(refund.line_no)]
            if refund.state is not RefundState.CLOSED and any(each.has_shipped for each in affected):
                amount = str(refund.amount)
                self.open_exception(ExceptionKind.REFUND_AFTER_SHIPPING, about=refund.refund_no, amount=amount)
            unshipped = [each for each in affected if not each.has_shipped]
            if refund.state is RefundState.ASKED and (unshipped or not affected):
                self.place_hold(HoldKind.REFUND, "hold.refund.asked", fact.actor)
                await self.processes.recall_for_hold(unshipped)
            if all(each.state is not RefundState.ASKED for each in state.order.refunds):
                state.holds = [each for each in state.holds if each.kind is not HoldKind.REFUND]

    @workflow.signal(description="Stock arrived that the order waits for")
    async def stock_arrived(self, fact: StockArrived) -> None:
        """Plan again. Stock that arrives while the order is planned may be what that plan then lacks."""
        async with self.lock:
            if self.state.shortages:
                self.state.to_plan = True

    @workflow.signal(description="An item or exchange rate that was unknown may now be known")
    async def mapped(self, fact: StockArrived) -> None:
        state = self.state
        async with self.lock:
            unknown = self._holds_of_catalogue()
            if not unknown or state.status.final:
                return
            await self._remap_and_review()
            if not all(each in state.holds for each in unknown):
                state.add_timeline_entry(fact.request_id, workflow.now(), "mapped", fact.actor)

    async def lift_holds(self, request: Release) -> Answer:
        """Lift the holds of one kind, or all. Items that the catalogue still does not know stay held: none can ship."""
        state = self.state
        lifted = [each for each in state.holds if request.kind in (None, each.kind)]
        unknown = any(each.kind is HoldKind.UNKNOWN_SKU for each in lifted)
        replans = request.kind in (None, HoldKind.WAREHOUSE) and bool(state.excluded_warehouses)
        if not lifted and not replans and not request.from_channel:
            return (
                no("refused.release.nothing") if request.kind is None else no("refused.release.none", hold=request.kind)
            )
        if replans:
            state.excluded_warehouses, state.to_plan = [], True
        state.holds = [each for each in state.holds if each not in lifted]
        if unknown and workflow.patched("unknown-stays-held"):
            await self._remap_and_review()
            if len(lifted) == 1 and any(each.same(lifted[0]) for each in state.holds):
                return no("refused.release.stands")
        return YES.model_copy(update={"overruled": tuple(each for each in lifted if state.still_causes(each))})

    def _holds_of_catalogue(self) -> list[Hold]:
        """Return the holds that a change of the catalogue or of the exchange rates may lift."""
        unrated = [each for each in self.state.holds if each.reason == NO_RATE]
        if unrated and not workflow.patched("rates-lift-holds"):
            unrated = []
        return [each for each in self.state.holds if each.kind is HoldKind.UNKNOWN_SKU or each in unrated]

    async def _remap_and_review(self, *, just_paid: bool = False) -> None:
        """Map the order's items to SKUs again, review the order, and apply what the rules decide."""
        state, unknown = self.state, self._holds_of_catalogue()
        revised = await self.run_step(order_activities.remap_and_review, state, workflow.now(), just_paid)
        state.order = revised.order
        state.rule(revised.ruled, workflow.now())
        state.merge_holds(revised.holds, lambda each: each in unknown)
        if revised.rejected:
            state.end = End.REJECTED

    @workflow.signal(description="A warehouse shipped or rejected a fulfillment order")
    def warehouse_event(self, fact: WarehouseEvent) -> None:
        fulfillment = self.state.fulfillment(fact.fulfillment_id)
        if fulfillment is None or fulfillment.has_shipped:
            return
        shipped = fact.kind is WarehouseEventKind.SHIPPED
        if fulfillment.status is FulfillmentStatus.CANCELLED:
            if shipped:
                self.open_exception(ExceptionKind.SHIPPED_AFTER_RECALL, fulfillment)
        elif shipped:
            fulfillment.leave(fact.at)
            fulfillment.weight_kg = fact.weight_kg
            if fact.unsealed and workflow.patched("unsealed-shipment"):
                detail = reference(fulfillment)
                self.state.add_timeline_entry(fact.request_id, fact.at, "warehouse_shipped", fact.actor, **detail)
        elif fact.kind is WarehouseEventKind.REJECTED:
            fulfillment.request_status = RequestStatus.REJECTED
            fulfillment.shortfalls = fact.shortfalls
            detail = reference(fulfillment) | {"reason": fact.reason}
            self.state.add_timeline_entry(fact.request_id, fact.at, "warehouse_rejected", fact.actor, **detail)

    @workflow.signal(description="A parcel reached a tracking milestone")
    def tracking(self, fact: Tracking) -> None:
        fulfillment = self.state.fulfillment_of(fact.waybill_no)
        if fulfillment is None or fulfillment.is_closed or fulfillment.tracking is fact.status:
            return
        if fulfillment.status is FulfillmentStatus.CANCELLED:
            self.open_exception(ExceptionKind.SHIPPED_AFTER_RECALL, fulfillment)
            return
        fulfillment.track(fact.status, fact.at)
        key = f"{fact.status}:{fact.waybill_no}:{fact.at.isoformat()}"
        self.state.add_timeline_entry(key, fact.at, f"tracking.{fact.status}", fact.actor, waybill_no=fact.waybill_no)
        if fact.status in PROBLEM_STATUSES:
            self.state.open_exception(ExceptionKind(fact.status.value), fact.at, fulfillment)

    @workflow.query(name="state", description="The order's whole state")
    def get_state(self) -> OrderState:
        return self.state

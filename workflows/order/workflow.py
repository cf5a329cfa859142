"""OrderWorkflow: one order from the channel to the customer's door.

Read ``_live`` for the story. Two other coroutines run beside it: ``_process_fulfillment``, one for each fulfillment
order, from booking to doorstep; and ``_watch``, which holds the order's one timer, its next deadline.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from workflows.order.messages import OrderMessages

with workflow.unsafe.imports_passed_through():
    from activities.fulfillment import steps as fulfillment_activities
    from activities.orders import steps as order_activities
    from models import search_attributes
    from models.fulfillment import PROBLEM_STATUSES, Fulfillment, FulfillmentStatus, RequestStatus, TrackingStatus
    from models.hold import Hold, HoldKind
    from models.i18n import t
    from models.order import URGENT, ChannelOrder, OrderStatus, RefundState
    from models.requests import (
        YES,
        Answer,
        Approve,
        Cancel,
        HoldRequest,
        Modify,
        Note,
        Payment,
        Refunding,
        Reject,
        Release,
        Remark,
        Replan,
        Request,
        StockArrived,
        Tracking,
        WarehouseEvent,
        WarehouseEventKind,
        no,
    )
    from models.state import Action, End, OrderInput, OrderState
    from workflows.order.details import render_details

HISTORY_LIMIT = 1500
"""Events after which a quiet order goes on in a new history, so that none passes 2,000."""

_LOCAL_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(minutes=1))
_OUTSIDE_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=2))

Result = TypeVar("Result")


@workflow.defn
class OrderWorkflow(OrderMessages):
    @workflow.init
    def __init__(self, given: OrderInput) -> None:
        self.state = given.state or OrderState(order=given.order, policy=given.policy)
        self._fulfillment_tasks: dict[str, asyncio.Task[None]] = {}
        self._working = 0
        self._behind = False
        self._lock = asyncio.Lock()
        self._shown = self._attributes() if given.state is None else {}

    @workflow.run
    async def run(self, given: OrderInput) -> OrderStatus:
        watch = asyncio.create_task(self._watch())
        life = asyncio.create_task(self._live())
        while not life.done():
            try:
                await workflow.wait_condition(life.done)
            except asyncio.CancelledError:
                if workflow.cancellation_reason() is None:
                    raise
                await self.act(
                    Action.CANCEL, Cancel(request_id=f"cancelled:{workflow.now().isoformat()}", actor="temporal")
                )
        del watch
        return await life

    async def _live(self) -> OrderStatus:
        """An order's life: admit; until all is delivered, clear, allocate and carry; then complete, or unwind."""
        state = self.state
        if not state.admitted:
            await self._admit()
        while state.end is None and not state.fulfilled:
            if state.to_plan and not state.blocked:
                await self._allocate()
            if state.end is None:
                self._start_fulfillments()
                await self._until(lambda: state.fulfilled or (state.to_plan and not state.blocked))
        if state.end is None:
            await asyncio.gather(*self._fulfillment_tasks.values())
            state.completed = True
            state.add_timeline_entry("completed", workflow.now(), "completed")
            await self._write()
        else:
            await self._recall_all()
            await self._settle()
        while not workflow.all_handlers_finished():
            await workflow.wait_condition(lambda: workflow.all_handlers_finished() or self._unwritten)
            if self._unwritten:
                await self._write()
        return state.status

    async def _admit(self) -> None:
        async with self._lock:
            await self._run_and_apply(order_activities.admit, self.state.admit)

    async def _allocate(self) -> None:
        async with self._lock:
            if self.state.end is not None or self.state.blocked:
                return
            self.state.to_plan = False
            try:
                await self._run_and_apply(order_activities.allocate, self.state.plan)
                if self.state.shortages and self.state.excluded_warehouses:
                    self._hold(HoldKind.WAREHOUSE, "hold.warehouse.rejected")
            except ActivityError as error:
                self.state.to_plan = True
                self._hold(HoldKind.UNKNOWN_SKU, _cause(error))

    def _start_fulfillments(self) -> None:
        for each in self.state.active:
            if each.id not in self._fulfillment_tasks:
                self._start_fulfillment(each)

    def _start_fulfillment(self, parcel: Fulfillment) -> None:
        self._fulfillment_tasks[parcel.id] = asyncio.create_task(self._process_fulfillment(parcel))

    async def _process_fulfillment(self, parcel: Fulfillment) -> None:
        """One fulfillment order from booking to doorstep. May be begun again at any step."""
        if parcel.status is FulfillmentStatus.SCHEDULED:
            await workflow.wait_condition(lambda: parcel.status is not FulfillmentStatus.SCHEDULED)
        while parcel.waybill_no is None:
            if waybill := await self._attempt(fulfillment_activities.book_waybill, parcel, HoldKind.BOOKING):
                parcel.carrier, parcel.waybill_no = waybill.carrier, waybill.waybill_no
        while parcel.request_status is RequestStatus.UNSUBMITTED:
            request_status = await self._attempt(
                fulfillment_activities.release_to_warehouse, parcel, HoldKind.WAREHOUSE
            )
            if request_status and parcel.request_status is RequestStatus.UNSUBMITTED:  # no event has overtaken it
                parcel.request_status = request_status
        self._stop_if_withdrawn(parcel)
        workflow.set_current_details(render_details(self.state))
        await workflow.wait_condition(
            lambda: parcel.shipped_at is not None or parcel.request_status is RequestStatus.REJECTED
        )
        if parcel.shipped_at is None:
            await self._replan(parcel)
            return
        if not parcel.deducted:
            parcel.deducted = True
            self.state.add_timeline_entry(f"shipped:{parcel.id}", parcel.shipped_at, "shipped", **self._where(parcel))
            await self._write(order_activities.ship, parcel)
        if not parcel.channel_notified:
            await self._notify_channel(parcel)
        await workflow.wait_condition(lambda: parcel.is_closed)
        if parcel.tracking is TrackingStatus.RETURNED:
            self.state.add_timeline_entry(f"restocked:{parcel.id}", workflow.now(), "restocked", **self._where(parcel))
            await self._write(order_activities.restock, parcel)

    async def _attempt(
        self, hand: Callable[[str], Awaitable[Result]], parcel: Fulfillment, kind: HoldKind
    ) -> Result | None:
        """Reaches out once nothing holds the order; a refusal becomes a hold, and ``None``."""
        await workflow.wait_condition(lambda: not self.state.blocked)
        self._stop_if_withdrawn(parcel)
        try:
            return await self._reach(hand, parcel)
        except ActivityError as error:
            self._stop_if_withdrawn(parcel)
            if is_cancelled_exception(error):
                raise asyncio.CancelledError from error
            if _code(error) == "rejected":
                parcel.request_status = RequestStatus.REJECTED
            else:
                self._hold(kind, _cause(error))
            return None

    @staticmethod
    def _stop_if_withdrawn(parcel: Fulfillment) -> None:
        """A call that ends by itself, well or badly, as its cancellation is asked for, swallows the cancellation."""
        if parcel.status is FulfillmentStatus.ON_HOLD:
            raise asyncio.CancelledError

    async def _notify_channel(self, parcel: Fulfillment) -> None:
        try:
            await self._reach(fulfillment_activities.confirm_shipment, parcel)
            parcel.channel_notified = True
        except ActivityError as error:
            self.state.alert("channel_refused", parcel.short_id, reason=_cause(error))

    async def _replan(self, parcel: Fulfillment) -> None:
        """The warehouse will not send it: gives it back, to be planned afresh, elsewhere unless the stock is why."""
        await self._cancel_waybill(parcel)
        async with self._lock:
            parcel.status = FulfillmentStatus.CANCELLED
            if not parcel.shortfalls or self._rejected_before(parcel):
                self._exclude_warehouse(parcel.warehouse)
            self.state.to_plan = True
            await self._write(order_activities.reject, parcel)

    def _rejected_before(self, parcel: Fulfillment) -> bool:
        """Its warehouse has rejected this order already: putting the stock right did not help."""
        return any(
            each.warehouse == parcel.warehouse and each.request_status is RequestStatus.REJECTED
            for each in self.state.fulfillments
            if each is not parcel
        )

    def _exclude_warehouse(self, warehouse: str) -> None:
        if warehouse not in self.state.excluded_warehouses:
            self.state.excluded_warehouses.append(warehouse)

    async def _cancel_waybill(self, parcel: Fulfillment) -> None:
        try:
            await self._reach(fulfillment_activities.cancel_waybill, parcel)
        except ActivityError as error:
            self.state.alert("waybill_not_cancelled", parcel.short_id, reason=_cause(error))

    # Deadlines

    async def _watch(self) -> None:
        """Keeps the timer of the next deadline. One that went away is left to run out: cancelling costs an event."""
        state = self.state
        while True:
            await workflow.wait_condition(lambda: state.deadline is not None)
            due = state.deadline
            assert due is not None  # noqa: S101
            try:
                await workflow.wait_condition(
                    lambda due=due: state.deadline not in (None, due),  # type: ignore[misc]
                    timeout=max(due - workflow.now(), timedelta(0)),
                    timeout_summary=t(state.next_step),
                )
            except TimeoutError:
                if state.deadline == due:
                    await self._overdue()

    async def _overdue(self) -> None:
        """What happens when a deadline passes: the unpaid order expires, grace ends, everything else calls a person."""
        state, now = self.state, workflow.now()
        status = state.status
        if status is OrderStatus.AWAITING_PAYMENT and now < state.pay_before:
            await self._give_reserved_back()
        elif status is OrderStatus.AWAITING_PAYMENT:
            state.end = End.CANCELLED
            state.add_timeline_entry("payment_expired", now, "payment_expired")
        elif status is OrderStatus.APPROVED:
            state.grace_until = None
        elif status in {OrderStatus.IN_REVIEW, OrderStatus.ON_HOLD, OrderStatus.AWAITING_STOCK}:
            state.overdue.append(status)
            state.alert(f"overdue.{status}")
        elif state.kept_back and state.held_until <= now:
            state.overdue.append(OrderStatus.ON_HOLD)
            state.alert("overdue.on_hold")
        else:
            moving = {
                each.waybill_no: each
                for each in state.active
                if each.has_shipped and not each.is_closed and each.waybill_no
            }
            for seen in await self._step(order_activities.last_scans, list(moving)) if moving else []:
                parcel = moving[seen.waybill_no]
                parcel.moved_at = max(seen.at, parcel.moved_at or seen.at)
            for each in state.active:
                if (due := state.due(each)) is None or due > now:
                    continue
                if each.status is FulfillmentStatus.SCHEDULED:
                    self._open(each)
                else:
                    each.overdue = True
                    kind = "ship_overdue" if each.shipped_at is None else "late"
                    state.alert(kind, each.short_id, **self._where(each))
                    if each.shipped_at is None and state.policy.replan_when_late:
                        wish = Replan(request_id=f"late:{each.id}", actor="hengdan", fulfillment_id=each.id)
                        await self.act(Action.REPLAN, wish)

    def _open(self, parcel: Fulfillment) -> None:
        """Its day has come, or it need not wait for it any more."""
        parcel.open(workflow.now())
        self.state.add_timeline_entry(f"opened:{parcel.id}", workflow.now(), "opened", **self._where(parcel))

    async def _give_reserved_back(self) -> None:
        """The buyer has not been heard of: others may have what was set aside; the order may still be paid."""
        state = self.state
        async with self._lock:
            if state.order.payable or state.reserved_until is None or state.reserved_until > workflow.now():
                return
            state.reserved_until = None
            state.add_timeline_entry(f"unreserved:{workflow.now().isoformat()}", workflow.now(), "unreserved")
            await self._settle()

    # What people ask

    async def act(self, action: Action, request: Request) -> Answer:
        """Carries a request out once; its answer, yes or no, stands for every repetition."""
        state = self.state
        async with self._lock:
            answer = state.answers.get(request.request_id)
            if answer is None:
                answer = state.allows(action)
                if answer.accepted:
                    answer = await self._carry_out(action, request)
                    state.extend_reservation(workflow.now())
                state.remember(request.request_id, answer)
                detail = request.model_dump(mode="json", include={"reason", "text", "kind", "stage"}, exclude_none=True)
                what = f"{action}" if answer.accepted else f"refused.{action}"
                if not answer.accepted and request.actor.startswith("channel:"):
                    await self._handle_late_channel_change(request)
                refusal = {} if answer.accepted else {"why": answer.reason, **answer.params}
                state.add_timeline_entry(request.request_id, workflow.now(), what, request.actor, **(detail | refusal))
        await workflow.wait_condition(lambda: not self._unwritten)
        return answer

    async def _carry_out(self, action: Action, request: Request) -> Answer:
        state = self.state
        match request:
            case Cancel() | Reject():
                if not await self._recall_all():
                    return no("refused.warehouse")
                state.end = End.CANCELLED if action is Action.CANCEL else End.REJECTED
            case Modify():
                return await self._modify(request)
            case HoldRequest():
                self._hold(request.kind, request.reason, request.actor)
            case Replan():
                return await self._plan_elsewhere(request)
            case Release():
                if request.kind in (None, HoldKind.WAREHOUSE) and state.excluded_warehouses:
                    state.excluded_warehouses, state.to_plan = [], True
                state.holds = [each for each in state.holds if request.kind not in (None, each.kind)]
            case Note():
                pass
            case Approve():
                return state.approve(request.stage)
            case _ if action is Action.EXPEDITE:
                state.order = state.order.model_copy(update={"priority": URGENT})
                for each in state.active:
                    if each.status is FulfillmentStatus.SCHEDULED:
                        self._open(each)
        return YES

    async def _handle_late_channel_change(self, request: Request) -> None:
        """The channel cancelled or changed what has left already: a person is called, and the rest of it stays here."""
        state = self.state
        if isinstance(request, Cancel):
            state.alert("channel_cancel")
            staying = [each for each in state.active if not each.has_shipped]
            if staying or state.shortages:
                self._hold(HoldKind.CHANNEL, "hold.channel.cancelled", request.actor)
                await self._recall_for_hold(staying)
        elif isinstance(request, Modify):
            state.alert("channel_modify")

    async def _modify(self, request: Modify) -> Answer:
        state = self.state
        try:
            _changed(state.order, request)
        except ValueError as error:
            return no("refused.lines", why=str(error))
        changed = [line.line_no for line in request.lines]
        if any(each.has_shipped for each in state.active):
            if request.recipient is not None or any(
                each.has_shipped and each.carries(*changed) for each in state.active
            ):
                return no("refused.modify.left")
            meant = [each for each in state.active if each.carries(*changed)]
            taken = await asyncio.gather(*(self._withdraw(each) for each in meant))
            if any(taken):
                await self._settle()
            if not all(taken):
                state.to_plan = state.to_plan or any(taken)
                return no("refused.warehouse")
        elif not await self._recall_all():
            return no("refused.warehouse")
        state.order = _changed(state.order, request)
        await self._revise()
        state.shortages, state.to_plan = [], True
        return YES

    async def _revise(self) -> None:
        """Takes in what the order is after cleansing and mapping, and what doubts that leaves."""
        state = self.state
        revised = await self._step(order_activities.revise, state, workflow.now())
        anew = {name: getattr(revised.order, name) for name in ("recipient", "lines", "carrier", "tags", "sites")}
        state.order = state.order.model_copy(update=anew)
        state.reserved_until = workflow.now() if revised.reserved else None
        doubts = {HoldKind.ADDRESS, HoldKind.UNKNOWN_SKU}
        state.rule(revised.ruled, workflow.now())
        state.merge_holds(revised.holds, lambda each: each.kind in doubts or each.rule is not None)
        if revised.rejected:
            state.end = End.REJECTED

    async def _plan_elsewhere(self, request: Replan) -> Answer:
        """Takes back what is meant and has not left; what has left goes on."""
        state = self.state
        meant = [
            each
            for each in state.active
            if not each.has_shipped
            and request.fulfillment_id in (None, each.id)
            and request.warehouse in (None, each.warehouse)
        ]
        if not meant:
            return no("refused.replan.nothing")
        taken = await asyncio.gather(*(self._withdraw(each) for each in meant))
        for parcel, given in zip(meant, taken, strict=True):
            if given:
                self._exclude_warehouse(parcel.warehouse)
        if any(taken):
            state.to_plan = True
            await self._settle()
        return YES if all(taken) else no("refused.warehouse")

    async def _recall_all(self) -> bool:
        """Stops every fulfillment order and gives its stock back; ``False`` where a warehouse will not let go."""
        state = self.state
        if any(each.has_shipped for each in state.active):
            return False
        taken = await asyncio.gather(*(self._withdraw(each) for each in state.active))
        if any(taken):
            state.to_plan = True
            await self._settle()
        return all(taken)

    async def _withdraw(self, parcel: Fulfillment) -> bool:
        carriage = self._fulfillment_tasks.pop(parcel.id, None)
        if carriage is not None:
            parcel.status = FulfillmentStatus.ON_HOLD
            carriage.cancel()
            await workflow.wait([carriage])
            if not await self._recall(parcel):
                self._start_fulfillment(parcel)
                return False
            await self._cancel_waybill(parcel)
        parcel.status = FulfillmentStatus.CANCELLED
        return True

    async def _recall(self, parcel: Fulfillment) -> bool:
        """Whether the warehouse lets go of it; whatever it says, what has left has left."""
        try:
            accepted = (await self._reach(fulfillment_activities.recall_from_warehouse, parcel)).accepted
        except ActivityError:
            accepted = False
        if not accepted and not parcel.has_shipped:
            parcel.status = FulfillmentStatus.OPEN
        return accepted and not parcel.has_shipped

    def _hold(self, kind: HoldKind, reason: str, by: str = "hengdan") -> None:
        self.state.hold(Hold(kind=kind, reason=reason, since=workflow.now(), by=by))

    # What systems tell

    @workflow.signal(description="The channel says it is paid")
    async def payment(self, fact: Payment) -> None:
        """The rules see it once more, before anything of it is allocated."""
        state = self.state
        if state.order.paid_at is not None:
            return
        waited = state.admitted and not state.order.payable
        state.order = state.order.model_copy(update={"paid_at": fact.paid_at})
        state.add_timeline_entry("paid", workflow.now(), "paid", fact.actor)
        if waited and workflow.patched("review-paid"):
            async with self._lock:
                if not state.status.final:
                    await self._recognise(just_paid=True)

    @workflow.signal(description="Buyer or seller changed what they say of it")
    async def remark(self, fact: Remark) -> None:
        """What the rules now hold does not leave any more, where its warehouse still has it."""
        state = self.state
        async with self._lock:
            if state.status.final:
                return
            revised = await self._step(order_activities.review_remark, state, fact, workflow.now())
            state.order = revised.order
            state.add_timeline_entry(fact.request_id, workflow.now(), "remarked", fact.actor)
            staying = [each for each in state.active if not each.has_shipped]
            if revised.holds and (staying or not state.active):
                for hold in revised.holds:
                    state.hold(hold)
                await self._recall_for_hold(staying)

    @workflow.signal(description="The buyer wants money back, or was given it")
    async def refund(self, fact: Refunding) -> None:
        """What may have to be refunded does not leave until that is settled, where its warehouse still has it."""
        state, refund = self.state, fact.refund
        async with self._lock:
            known = {each.refund_no: each for each in state.order.refunds}
            if state.status.final or known.get(refund.refund_no) == refund:
                return
            known[refund.refund_no] = refund
            state.order = state.order.model_copy(update={"refunds": tuple(known.values())})
            detail = refund.model_dump(mode="json", include={"refund_no", "amount", "line_no", "quantity", "reason"})
            state.add_timeline_entry(fact.request_id, workflow.now(), f"refund.{refund.state}", fact.actor, **detail)
            meant = [each for each in state.active if each.carries(refund.line_no)]
            if refund.state is not RefundState.CLOSED and any(each.has_shipped for each in meant):
                state.alert("refund_after_shipping", refund.refund_no, amount=str(refund.amount))
            staying = [each for each in meant if not each.has_shipped]
            if refund.state is RefundState.ASKED and (staying or not meant):
                self._hold(HoldKind.REFUND, "hold.refund.asked", fact.actor)
                await self._recall_for_hold(staying)
            if all(each.state is not RefundState.ASKED for each in state.order.refunds):
                state.holds = [each for each in state.holds if each.kind is not HoldKind.REFUND]

    async def _recall_for_hold(self, parcels: list[Fulfillment]) -> None:
        """Takes back what is not to leave for now; a person is called where a warehouse will not let go of it."""
        taken = await asyncio.gather(*(self._withdraw(each) for each in parcels))
        for parcel, given in zip(parcels, taken, strict=True):
            if not given:
                self.state.alert("held_too_late", parcel.short_id, **self._where(parcel))
        if any(taken):
            self.state.to_plan = True
            await self._settle()

    @workflow.signal(description="Stock that the order waits for has arrived")
    def stock_arrived(self, fact: StockArrived) -> None:
        if self.state.shortages:
            self.state.to_plan = True

    @workflow.signal(description="An item that it is held for may be known now")
    async def mapped(self, fact: StockArrived) -> None:
        state = self.state
        async with self._lock:
            unknown = [each for each in state.holds if each.kind is HoldKind.UNKNOWN_SKU]
            if not unknown or state.status.final:
                return
            await self._recognise()
            if not all(each in state.holds for each in unknown):
                state.add_timeline_entry(fact.request_id, workflow.now(), "mapped", fact.actor)

    async def _recognise(self, *, just_paid: bool = False) -> None:
        """Takes in what is known of it now: its SKUs, its payment, and what rules make of that."""
        state = self.state
        known = await self._step(order_activities.remap_and_review, state, workflow.now(), just_paid)
        state.order = known.order
        state.rule(known.ruled, workflow.now())
        state.merge_holds(known.holds, lambda each: each.kind is HoldKind.UNKNOWN_SKU)
        if known.rejected:
            state.end = End.REJECTED

    @workflow.signal(description="A warehouse ships, or rejects, a fulfillment order")
    def warehouse_event(self, fact: WarehouseEvent) -> None:
        parcel = self.state.fulfillment(fact.fulfillment_id)
        if parcel is None or parcel.has_shipped:
            return
        shipped = fact.kind is WarehouseEventKind.SHIPPED
        if parcel.status is FulfillmentStatus.CANCELLED:
            if shipped:
                self.state.alert("shipped_after_recall", parcel.short_id, **self._where(parcel))
        elif shipped:
            parcel.leave(fact.at)
            parcel.weight_kg = fact.weight_kg
        elif fact.kind is WarehouseEventKind.REJECTED:
            parcel.request_status = RequestStatus.REJECTED
            parcel.shortfalls = fact.shortfalls
            where = self._where(parcel)
            self.state.add_timeline_entry(
                fact.request_id, fact.at, "warehouse_rejected", fact.actor, **where, reason=fact.reason
            )

    @workflow.signal(description="A milestone of a parcel")
    def tracking(self, fact: Tracking) -> None:
        parcel = self.state.parcel(fact.waybill_no)
        if parcel is None or parcel.is_closed or parcel.tracking is fact.status:
            return
        if parcel.status is FulfillmentStatus.CANCELLED:
            self.state.alert("shipped_after_recall", parcel.short_id, **self._where(parcel))
            return
        parcel.track(fact.status, fact.at)
        key = f"{fact.status}:{fact.waybill_no}:{fact.at.isoformat()}"
        self.state.add_timeline_entry(key, fact.at, f"tracking.{fact.status}", fact.actor, waybill_no=fact.waybill_no)
        if fact.status in PROBLEM_STATUSES:
            self.state.alert(str(fact.status), parcel.short_id, waybill_no=fact.waybill_no)

    @workflow.query(name="state", description="Everything the order knows of itself")
    def get_state(self) -> OrderState:
        return self.state

    # Writing down

    @property
    def _unwritten(self) -> bool:
        return self._behind or bool(self.state.entries or self.state.alerts)

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Sleeps until the condition holds or the order ends, writing down what happens meanwhile."""
        state = self.state
        while not condition() and state.end is None:
            if self._unwritten:
                await self._write()
            else:
                await workflow.wait_condition(
                    lambda: condition() or state.end is not None or self._unwritten or self._history_full
                )
                if self._history_full:
                    workflow.continue_as_new(OrderInput(order=state.order, policy=state.policy, state=state))

    @property
    def _history_full(self) -> bool:
        return (
            workflow.info().get_current_history_length() > HISTORY_LIMIT
            and self._working == 0
            and workflow.all_handlers_finished()
        )

    async def _write(self, step: Callable[..., Awaitable[None]] = order_activities.record, *about: Fulfillment) -> None:
        """Writes the present snapshot, alone or together with a step's effect on the stock."""
        state = self.state
        state.revision += 1
        self._behind = False
        snapshot = state.snapshot(workflow.now())
        state.entries, state.alerts = [], []
        self._show()
        await self._step(step, snapshot, *about)

    async def _settle(self) -> None:
        await self._write(order_activities.settle)

    async def _run_and_apply(
        self, step: Callable[[OrderState, datetime], Awaitable[Result]], absorb: Callable[[Result], None]
    ) -> None:
        """Runs a step that plans the order and writes it down in one transaction; then takes its result in."""
        state = self.state
        state.revision += 1
        given = state.model_copy()
        state.entries, state.alerts = [], []
        result = await self._step(step, given, workflow.now())
        later = state.entries
        state.entries = []
        absorb(result)
        state.entries = later
        self._behind = state.revision != given.revision
        self._show()

    async def _step(self, step: Callable[..., Awaitable[Result]], *args: object) -> Result:
        """A short step on our own database: one event in the history."""
        self._working += 1
        try:
            return await workflow.execute_local_activity(
                step, args=args, start_to_close_timeout=timedelta(seconds=30), retry_policy=_LOCAL_RETRY
            )
        finally:
            self._working -= 1

    async def _reach(self, hand: Callable[[str], Awaitable[Result]], parcel: Fulfillment) -> Result:
        """A call to the outside world: seen and retried by the engine, never abandoned half done."""
        self._working += 1
        try:
            return await workflow.execute_activity(
                hand,
                parcel.id,
                start_to_close_timeout=timedelta(seconds=60),
                retry_policy=_OUTSIDE_RETRY,
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                priority=Priority(priority_key=self.state.order.priority),
                summary=f"{parcel.short_id} {parcel.warehouse}",
            )
        finally:
            self._working -= 1

    def _show(self) -> None:
        """Tells the operator: current details always, search attributes where they changed."""
        workflow.set_current_details(render_details(self.state))
        now = self._attributes()
        changed = [key.value_set(value) for key, value in now.items() if self._shown.get(key) != value]
        if changed:
            workflow.upsert_search_attributes(changed)
            self._shown = now

    def _attributes(self) -> dict[SearchAttributeKey[Any], Any]:
        state = self.state
        return {
            search_attributes.STATUS: state.status.value,
            search_attributes.PRIORITY: state.order.priority,
            search_attributes.HOLDS: sorted({hold.kind.value for hold in state.holds}),
            search_attributes.WAREHOUSES: sorted({each.warehouse for each in state.active}),
            search_attributes.CARRIERS: sorted({each.carrier for each in state.active if each.carrier}),
        }

    @staticmethod
    def _where(parcel: Fulfillment) -> dict[str, Any]:
        return {"fulfillment": parcel.short_id, "warehouse": parcel.warehouse, "waybill_no": parcel.waybill_no}


def _changed(order: ChannelOrder, request: Modify) -> ChannelOrder:
    """The order as asked for. Raises ``ValueError`` where its lines cannot be so."""
    if request.lines:
        order = order.with_quantities({line.line_no: line.quantity for line in request.lines})
    if request.recipient is not None:
        order = order.model_copy(update={"recipient": request.recipient.applied_to(order.recipient)})
    return order


def _code(error: ActivityError) -> str:
    """The other side's own code of its refusal."""
    return str(error.cause.details[0]) if isinstance(error.cause, ApplicationError) and error.cause.details else ""


def _cause(error: ActivityError) -> str:
    """What the other side said, as it said it."""
    cause = error.cause
    return cause.message if isinstance(cause, ApplicationError) else str(cause)

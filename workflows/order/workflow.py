"""OrderWorkflow: one order from the channel to the customer's door.

Read ``_process_order`` for the story. Beside it run one ``FulfillmentProcess`` for each fulfillment order, and
``_watch_deadlines``, which keeps the order's one timer. Handlers of messages are in ``messages``.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError

from workflows.order.context import BOUNDED_REQUESTS, failure_message
from workflows.order.fulfillment_process import FulfillmentProcesses
from workflows.order.messages import OrderMessages

with workflow.unsafe.imports_passed_through():
    from activities.orders import steps as order_activities
    from models.changes import changed_fields, contact_change
    from models.exceptions import ExceptionKind
    from models.fulfillment import FulfillmentStatus
    from models.hold import HoldKind
    from models.i18n import InvalidValue, t
    from models.order import URGENT, ChannelOrder, OrderStatus
    from models.requests import (
        YES,
        Answer,
        Approve,
        Cancel,
        HoldRequest,
        Modify,
        Note,
        Reject,
        Release,
        Replan,
        Request,
        no,
    )
    from models.state import Action, End, OrderInput, OrderState

HISTORY_LIMIT = 1500
"""Events after which an idle order continues in a new history, so that none exceeds 2,000."""


@workflow.defn
class OrderWorkflow(OrderMessages):
    @workflow.init
    def __init__(self, given: OrderInput) -> None:
        state = given.state or OrderState(order=given.order, policy=given.policy)
        super().__init__(state, continued=given.state is not None)
        self._given = given
        self.processes = FulfillmentProcesses(self)

    @workflow.run
    async def run(self, given: OrderInput) -> OrderStatus:
        """Process the order to its end. A cancellation of the workflow is a request to cancel the order."""
        deadlines = asyncio.create_task(self._watch_deadlines())
        order = asyncio.create_task(self._process_order())
        while not order.done():
            try:
                await workflow.wait_condition(order.done)
            except asyncio.CancelledError:
                if workflow.cancellation_reason() is None:
                    raise
                await self.act(
                    Action.CANCEL, Cancel(request_id=f"cancelled:{workflow.now().isoformat()}", actor="temporal")
                )
        del deadlines
        return await order

    async def _process_order(self) -> OrderStatus:
        """Admit the order; allocate and fulfill until everything is delivered; then complete it, or unwind it."""
        state = self.state
        if not state.admitted:
            await self._admit()
        while state.end is None and not state.fulfilled:
            if state.to_plan and not state.blocked:
                await self._allocate()
            if state.end is None:
                self.processes.start()
                await self._until(lambda: state.fulfilled or (state.to_plan and not state.blocked))
                if state.fulfilled:
                    await self._finish_processes()
        if state.end is None:
            await self._complete()
        else:
            await self._unwind()
        await self._finish_handlers()
        return state.status

    async def _admit(self) -> None:
        """Admit the order. One that cannot be stored goes to failed intake, from where a person starts it again."""
        async with self.lock:
            try:
                await self.run_and_apply(order_activities.admit, self.state.admit)
            except FailureError as error:
                reason = failure_message(error)
                await self.run_step(order_activities.fail_admission, self.state.order.order_id, reason)
                raise ApplicationError(reason, non_retryable=True) from error

    async def _allocate(self) -> None:
        async with self.lock:
            if self.state.end is not None or self.state.blocked:
                return
            self.state.to_plan = False
            try:
                await self.run_and_apply(order_activities.allocate, self.state.plan)
                if self.state.shortages and self.state.excluded_warehouses:
                    self.place_hold(HoldKind.WAREHOUSE, "hold.warehouse.rejected")
            except FailureError as error:
                self.state.to_plan = True
                self.place_hold(HoldKind.UNKNOWN_SKU, failure_message(error))

    async def _finish_processes(self) -> None:
        """Wait until nothing is left to do for any fulfillment order, writing what happens meanwhile."""
        while not self.processes.ended:
            await workflow.wait_condition(lambda: self.processes.ended or self.unwritten)
            if not self.processes.ended:
                if workflow.patched(BOUNDED_REQUESTS):
                    await self.write()
                else:
                    await workflow.wait_condition(lambda: self.processes.ended)
        self.processes.check()

    async def _complete(self) -> None:
        self.state.completed = True
        self.state.add_timeline_entry("completed", workflow.now(), "completed")
        await self.write()

    async def _unwind(self) -> None:
        """Recall what has not shipped and release all stock of a cancelled or rejected order."""
        async with self.lock:
            await self.processes.recall_all()
            await self.settle()

    async def _finish_handlers(self) -> None:
        """Write what handlers and background work add, until the last has ended."""
        while not self._at_rest:
            await workflow.wait_condition(lambda: self._at_rest or self.unwritten)
            if self.unwritten:
                await self.write()

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds or the order ends, writing what happens meanwhile."""
        state = self.state
        while not condition() and state.end is None:
            if self.unwritten:
                await self.write()
            else:
                await workflow.wait_condition(
                    lambda: condition() or state.end is not None or self.unwritten or self._history_full
                )
                if self._history_full:
                    self.count_events()
                    workflow.continue_as_new(OrderInput(order=self._given.order, policy=state.policy, state=state))

    @property
    def _at_rest(self) -> bool:
        """Whether nothing runs that would be lost with this history, and everything is written."""
        return workflow.all_handlers_finished() and self.idle and not self.unwritten

    @property
    def _history_full(self) -> bool:
        return workflow.info().get_current_history_length() > HISTORY_LIMIT and self._at_rest

    # Deadlines

    async def _watch_deadlines(self) -> None:
        """Keep a timer for the next deadline. A timer whose deadline moved runs out: cancelling it costs an event."""
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
                    await self._handle_deadline()

    async def _handle_deadline(self) -> None:
        """Expire an unpaid order, end the grace period, open what is scheduled; else open an exception."""
        state, now = self.state, workflow.now()
        status = state.status
        if status is OrderStatus.AWAITING_PAYMENT and now < state.pay_before:
            await self._release_reservation()
        elif status is OrderStatus.AWAITING_PAYMENT:
            state.end = End.CANCELLED
            state.add_timeline_entry("payment_expired", now, "payment_expired")
        elif status is OrderStatus.APPROVED:
            state.grace_until = None
        elif status in {OrderStatus.IN_REVIEW, OrderStatus.ON_HOLD, OrderStatus.AWAITING_STOCK}:
            state.overdue.append(status)
            self.open_exception(ExceptionKind(f"overdue.{status}"))
        elif state.remainder_held and state.held_until <= now:
            state.overdue.append(OrderStatus.ON_HOLD)
            self.open_exception(ExceptionKind.HOLD_OVERDUE)
        else:
            await self._update_last_scans()
            for each in state.active:
                if (due := state.due(each)) is None or due > now:
                    continue
                if each.status is FulfillmentStatus.SCHEDULED:
                    state.open_fulfillment(each, workflow.now())
                    continue
                each.overdue = True
                self.open_exception(state.overdue_kind(each, now), each)
                if each.shipped_at is None and state.policy.replan_when_late:
                    request = Replan(request_id=f"late:{each.id}", actor="hengdan", fulfillment_id=each.id)
                    await self.act(Action.REPLAN, request)

    async def _release_reservation(self) -> None:
        """Release the stock reserved for an unpaid order that has been inactive; the buyer may still pay."""
        state = self.state
        async with self.lock:
            if state.order.payable or state.reserved_until is None or state.reserved_until > workflow.now():
                return
            state.reserved_until = None
            state.add_timeline_entry(f"unreserved:{workflow.now().isoformat()}", workflow.now(), "unreserved")
            await self.settle()

    async def _update_last_scans(self) -> None:
        """Read the newest scans of the parcels on their way: only milestones are signalled to the workflow."""
        moving = {
            each.waybill_no: each
            for each in self.state.active
            if each.has_shipped and not each.is_closed and each.waybill_no
        }
        if moving:
            for scan in await self.run_step(order_activities.last_scans, list(moving)):
                fulfillment = moving[scan.waybill_no]
                fulfillment.moved_at = max(scan.at, fulfillment.moved_at or scan.at)

    # Requests

    async def act(self, action: Action, request: Request) -> Answer:
        state = self.state
        async with self.lock:
            answer = state.answers.get(request.request_id)
            if answer is None:
                answer, before = state.allows(action), state.order
                if answer.accepted:
                    answer = await self._carry_out(action, request)
                    state.extend_reservation(workflow.now())
                answer = state.explain(action, answer)
                state.remember(request.request_id, answer)
                detail = request.model_dump(mode="json", include={"reason", "text", "kind", "stage"}, exclude_none=True)
                what = f"{action}" if answer.accepted else f"refused.{action}"
                if not answer.accepted and request.from_channel:
                    await self._handle_late_channel_change(request)
                refusal = {} if answer.accepted else {"why": answer.reason, **answer.params}
                changes = {} if state.order is before else {"changes": changed_fields(before, state.order)}
                state.add_timeline_entry(
                    request.request_id, workflow.now(), what, request.actor, **(detail | refusal | changes)
                )
                contact = contact_change(before, state.order)
                state.entries[-1] = state.entries[-1].model_copy(update={"contact": contact})
        await workflow.wait_condition(lambda: not self.unwritten)
        return answer

    async def _carry_out(self, action: Action, request: Request) -> Answer:
        state = self.state
        match request:
            case Cancel() | Reject():
                if not await self.processes.recall_all():
                    return no("refused.warehouse")
                state.end = End.CANCELLED if action is Action.CANCEL else End.REJECTED
            case Modify():
                return await self._modify(request)
            case HoldRequest():
                same = any((each.kind, each.reason) == (request.kind, request.reason) for each in state.holds)
                if same and not request.from_channel:
                    return no("refused.hold.already")
                self.place_hold(request.kind, request.reason, request.actor)
            case Replan():
                return await self._replan(request)
            case Release():
                return await self.lift_holds(request)
            case Note():
                pass
            case Approve():
                return state.approve(request.stage)
            case _ if action is Action.EXPEDITE:
                scheduled = any(each.status is FulfillmentStatus.SCHEDULED for each in state.active)
                if state.order.priority == URGENT and not scheduled:
                    return no("refused.expedite.already")
                state.order = state.order.model_copy(update={"priority": URGENT})
                for each in state.active:
                    if each.status is FulfillmentStatus.SCHEDULED:
                        state.open_fulfillment(each, workflow.now())
        return YES

    async def _handle_late_channel_change(self, request: Request) -> None:
        """Open an exception for a cancellation or change that came after shipping; hold what has not shipped."""
        state = self.state
        if isinstance(request, Cancel):
            self.open_exception(ExceptionKind.CHANNEL_CANCEL)
            unshipped = [each for each in state.active if not each.has_shipped]
            if unshipped or state.shortages:
                self.place_hold(HoldKind.CHANNEL, "hold.channel.cancelled", request.actor)
                await self.processes.recall_for_hold(unshipped)
        elif isinstance(request, Modify):
            about = request.request_id if request.terms is not None else ""
            self.open_exception(ExceptionKind.CHANNEL_MODIFY, about=about, changes=request.differences(state.order))
            if added := request.added_lines(state.order):
                self.open_exception(ExceptionKind.LINES_ADDED, about=about, count=str(len(added)))

    async def _modify(self, request: Modify) -> Answer:
        """Change an order that has not shipped as a whole; of one that has shipped in part, only unshipped lines.

        What changes neither the parcels nor what their carriers collect needs no recall.
        """
        state = self.state
        try:
            modified = request.applied_to(state.order)
        except InvalidValue as error:
            return no("refused.lines", why=error.message)
        if not request.from_channel and not changed_fields(state.order, modified):
            return no("refused.modify.same")
        if request.terms is not None and not _ships_differently(state.order, modified):
            state.order = modified
            await self._revise()
            if state.holds:
                await self.processes.recall_for_hold([each for each in state.active if not each.has_shipped])
            return YES
        line_nos = [line.line_no for line in request.lines] + _changed_lines(state.order, modified)
        if any(each.has_shipped for each in state.active):
            affected = [each for each in state.active if each.carries(*line_nos)]
            collects = (state.order.owed, state.order.carrier) != (modified.owed, modified.carrier)
            if request.recipient is not None or collects or any(each.has_shipped for each in affected):
                return no("refused.modify.left")
            withdrawn = await self.processes.withdraw(affected)
            if any(withdrawn):
                await self.settle()
            if not all(withdrawn):
                state.to_plan = state.to_plan or any(withdrawn)
                return no("refused.warehouse")
        elif not await self.processes.recall_all():
            return no("refused.warehouse")
        state.order = request.applied_to(state.order)
        await self._revise()
        state.shortages, state.to_plan = [], True
        return YES

    async def _revise(self) -> None:
        """Cleanse, map and review a modified order, and replace the holds that earlier revisions caused."""
        state = self.state
        revised = await self.run_step(order_activities.review_modified_order, state, workflow.now())
        fields = ("recipient", "lines", "carrier", "tags", "sites")
        state.order = state.order.model_copy(update={name: getattr(revised.order, name) for name in fields})
        state.reserved_until = workflow.now() if revised.reserved else None
        validation_holds = {HoldKind.ADDRESS, HoldKind.UNKNOWN_SKU}
        state.rule(revised.ruled, workflow.now())
        state.merge_holds(revised.holds, lambda each: each.kind in validation_holds or each.rule is not None)
        if revised.rejected:
            state.end = End.REJECTED

    async def _replan(self, request: Replan) -> Answer:
        """Withdraw the chosen fulfillment orders that have not shipped, and exclude their warehouses from planning."""
        state = self.state
        chosen = [
            each
            for each in state.active
            if not each.has_shipped
            and request.fulfillment_id in (None, each.id)
            and request.warehouse in (None, each.warehouse)
        ]
        if not chosen:
            return no("refused.replan.nothing")
        withdrawn = await self.processes.withdraw(chosen)
        for each, accepted in zip(chosen, withdrawn, strict=True):
            if accepted:
                state.exclude_warehouse(each.warehouse)
        if any(withdrawn):
            state.to_plan = True
            await self.settle()
        return YES if all(withdrawn) else no("refused.warehouse")


def _changed_lines(before: ChannelOrder, after: ChannelOrder) -> list[str]:
    """Return the numbers of the lines whose goods differ: item or quantity."""
    goods = [{line.line_no: (line.sku, line.quantity) for line in order.lines} for order in (before, after)]
    return sorted(
        line_no for line_no in goods[0].keys() | goods[1].keys() if goods[0].get(line_no) != goods[1].get(line_no)
    )


def _ships_differently(before: ChannelOrder, after: ChannelOrder) -> bool:
    """Whether the goods, their recipient, their carrier or the amount to collect differ."""
    fields = ("recipient", "carrier", "owed")
    return bool(_changed_lines(before, after)) or any(getattr(before, name) != getattr(after, name) for name in fields)

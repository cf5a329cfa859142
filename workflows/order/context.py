"""What every part of the order workflow uses: the order's state, its lock, and the calls that take effect outside."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.kit.errors import PERMANENT
    from activities.orders import steps as order_activities
    from models.exceptions import ExceptionKind
    from models.fulfillment import Fulfillment
    from models.hold import Hold, HoldKind
    from models.requests import UNSEALED
    from models.state import OrderState
    from workflows.order.details import render_details, search_attribute_values

_LOCAL_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(minutes=1))
_DECISION_RETRY = replace(_LOCAL_RETRY, non_retryable_error_types=[PERMANENT])
_OUTSIDE_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=2))

BOUNDED_REQUESTS = "bounded-requests"
"""Patch: waybills are voided in the background, and what happens while an order completes is written at once."""
COMPLETE_UNNOTIFIED = "complete-unnotified"
"""Patch: an order completes although its channel has not taken the shipping confirmation yet."""
RECALL_LIMIT = timedelta(seconds=15)
"""How long a request waits for a warehouse's answer to a recall."""
_WEEK = timedelta(days=7)

Result = TypeVar("Result")


class OrderContext:
    def __init__(self, state: OrderState, *, continued: bool) -> None:
        self.state = state
        self.lock = asyncio.Lock()
        """Held while the plan changes: requests, facts and allocations run one after another."""
        self._calls = 0
        self._background: set[asyncio.Task[None]] = set()
        self._seen_before = state.seen
        self._outdated = False
        self._published: dict[SearchAttributeKey[Any], Any] = {} if continued else search_attribute_values(state)

    @property
    def calling(self) -> bool:
        """Whether an activity is running."""
        return self._calls > 0

    @property
    def idle(self) -> bool:
        """Whether no request, call or background work is under way, so that the workflow may end."""
        return not (self.lock.locked() or self.calling or self._background)

    def in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start work that no request waits for; the workflow does not end before it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def count_events(self) -> None:
        """Note the length of the history, by which a repeated workflow task's writes outrank those of a lost one.

        Events of earlier histories of the order count as well. After an operator's reset the run differs instead.
        """
        self.state.run_id = workflow.info().run_id
        self.state.seen = self._seen_before + workflow.info().get_current_history_length()

    @property
    def unwritten(self) -> bool:
        """Whether something happened that the database does not show yet."""
        return self._outdated or bool(self.state.entries or self.state.exceptions)

    async def write(self, step: Callable[..., Awaitable[None]] = order_activities.record, *about: Fulfillment) -> None:
        """Write the current snapshot, alone or in one transaction with a step's effect on the stock."""
        state = self.state
        state.revision += 1
        self.count_events()
        self._outdated = False
        snapshot = state.snapshot(workflow.now())
        state.entries, state.exceptions = [], []
        self._publish()
        await self.run_step(step, snapshot, *about)

    async def settle(self) -> None:
        """Write the current snapshot and release the stock of cancelled fulfillment orders."""
        await self.write(order_activities.settle)

    async def run_and_apply(
        self, step: Callable[[OrderState, datetime], Awaitable[Result]], apply: Callable[[Result], None]
    ) -> None:
        """Run a step that decides on the order and writes it in one transaction; then apply its result to the state.

        Raises ``FailureError`` where repeating the step cannot help.
        Entries added while the step ran are kept for the next write.
        """
        state = self.state
        state.revision += 1
        self.count_events()
        given = state.model_copy()
        state.entries, state.exceptions = [], []
        result = await self.run_step(step, given, workflow.now(), retry=_DECISION_RETRY)
        later = state.entries
        state.entries = []
        apply(result)
        state.entries = later
        self._outdated = state.revision != given.revision
        self._publish()

    async def run_step(
        self, step: Callable[..., Awaitable[Result]], *args: object, retry: RetryPolicy = _LOCAL_RETRY
    ) -> Result:
        """Run a short step on our own database as a local activity, which costs one history event."""
        self._calls += 1
        try:
            return await workflow.execute_local_activity(
                step, args=args, start_to_close_timeout=timedelta(seconds=30), retry_policy=retry
            )
        finally:
            self._calls -= 1

    async def call(
        self,
        activity: Callable[[str], Awaitable[Result]],
        fulfillment: Fulfillment,
        within: timedelta | None = None,
    ) -> Result:
        """Call an external system, and try again until it answers; a cancellation waits until the call has ended.

        A call under the lock is limited by ``within``, so that the requests behind it are answered. Raise
        ``ActivityError`` if the system refuses, or does not answer in time.
        """
        self._calls += 1
        try:
            return await workflow.execute_activity(
                activity,
                fulfillment.id,
                start_to_close_timeout=timedelta(seconds=60),
                schedule_to_close_timeout=within,
                retry_policy=_OUTSIDE_RETRY,
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                priority=Priority(priority_key=self.state.order.priority),
                summary=f"{fulfillment.short_id} {fulfillment.warehouse}",
            )
        finally:
            self._calls -= 1

    async def call_persistently(
        self, activity: Callable[[str], Awaitable[None]], fulfillment: Fulfillment, kind: ExceptionKind
    ) -> bool:
        """Call an external system for two weeks; return whether it did its work.

        Open an exception of this kind once the system refuses, or has not answered for a week. Of a call that fails for
        long, ``workers.failures`` opens the same exception much earlier.
        """
        for _ in range(2):
            try:
                await self.call(activity, fulfillment, _WEEK)
            except ActivityError as error:
                self.open_exception(kind, fulfillment, reason=failure_message(error))
                if isinstance(error.cause, ApplicationError) and error.cause.non_retryable:
                    return False
            else:
                return True
        return False

    def note_not_understood(self, name: str, why: str) -> None:
        """Note on the timeline a signal that was sent by hand and cannot be understood; ``why`` is a message."""
        if workflow.patched("note-not-understood"):
            key = f"not_understood:{workflow.uuid4()}"
            self.state.add_timeline_entry(key, workflow.now(), "not_understood", UNSEALED, name=name[:100], why=why)

    def place_hold(self, kind: HoldKind, reason: str, by: str = "hengdan") -> None:
        self.state.hold(Hold(kind=kind, reason=reason, since=workflow.now(), by=by))

    def open_exception(
        self, kind: ExceptionKind, fulfillment: Fulfillment | None = None, about: str = "", **detail: str
    ) -> None:
        self.state.open_exception(kind, workflow.now(), fulfillment, about, **detail)

    def _publish(self) -> None:
        """Update the current details, and those search attributes whose values changed."""
        workflow.set_current_details(render_details(self.state))
        values = search_attribute_values(self.state)
        changed = [key.value_set(value) for key, value in values.items() if self._published.get(key) != value]
        if changed:
            workflow.upsert_search_attributes(changed)
            self._published = values


def reference(fulfillment: Fulfillment) -> dict[str, Any]:
    """Return what timeline entries say of a fulfillment order to identify it."""
    return {
        "fulfillment": fulfillment.short_id,
        "warehouse": fulfillment.warehouse,
        "waybill_no": fulfillment.waybill_no,
    }


def failure_message(error: FailureError) -> str:
    """Return the message of the failure, in the words of the system that was called."""
    cause = error.cause if isinstance(error, ActivityError) else error
    return cause.message if isinstance(cause, ApplicationError) else str(cause)


def failure_code(error: ActivityError) -> str:
    """Return the failure's code, as the called system gave it; empty if it gave none."""
    return str(error.cause.details[0]) if isinstance(error.cause, ApplicationError) and error.cause.details else ""

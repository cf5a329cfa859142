"""TransferWorkflow: move goods between two of our locations, from the draft until every unit is accounted for.

Requests are carried out one after another. Each changes a copy of the transfer, which replaces the transfer once the
step is written.
"""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.stock import transfers as steps
    from models.exceptions import NewException
    from models.i18n import t
    from models.order import Entry
    from models.requests import Answer, Approve, Request
    from models.stock import Move
    from models.transfers import (
        CancelTransfer,
        Receive,
        Ship,
        Transfer,
        TransferAction,
        TransferStatus,
        TransferStep,
        listed,
    )

HISTORY_LIMIT = 1500
"""Events after which an idle transfer continues in a new history, so that none exceeds 2,000."""

_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(minutes=1))


@workflow.defn
class TransferWorkflow:
    @workflow.init
    def __init__(self, given: Transfer) -> None:
        self.transfer = given
        self._lock = asyncio.Lock()

    @workflow.run
    async def run(self, given: Transfer) -> TransferStatus:
        """Process the transfer to its end. A cancellation of the workflow is a request to cancel the transfer."""
        transfer = asyncio.create_task(self._process_transfer())
        while not transfer.done():
            try:
                await workflow.wait_condition(transfer.done)
            except asyncio.CancelledError:
                if workflow.cancellation_reason() is None:
                    raise
                request = CancelTransfer(request_id=f"cancelled:{workflow.now().isoformat()}", actor="temporal")
                await self.act(TransferAction.CANCEL, request)
        await transfer
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.transfer.status

    async def _process_transfer(self) -> None:
        """Wait for requests until nothing is in transit any more; open an exception once the transfer is overdue."""
        async with self._lock:
            if self.transfer.revision == 0:
                await self._write(self.transfer.model_copy())
        while not self.transfer.status.final:
            deadline = self.transfer.deadline
            try:
                await workflow.wait_condition(
                    lambda: self.transfer.status.final or self._history_full,
                    timeout=max(deadline - workflow.now(), timedelta(0)) if deadline else None,
                    timeout_summary=t("transfer.due"),
                )
            except TimeoutError:
                await self._handle_deadline()
            else:
                if not self.transfer.status.final:
                    workflow.continue_as_new(self.transfer)

    async def _handle_deadline(self) -> None:
        async with self._lock:
            if not self.transfer.status.final:
                after = self.transfer.model_copy(update={"overdue": True})
                await self._write(after, exception=after.late(workflow.now()))

    @property
    def _history_full(self) -> bool:
        return (
            workflow.info().get_current_history_length() > HISTORY_LIMIT
            and not self._lock.locked()
            and workflow.all_handlers_finished()
        )

    # Requests

    async def act(self, action: TransferAction, request: Request) -> Answer:
        """Carry out a request once; answer a repetition of its id with the first answer."""
        async with self._lock:
            answer = self.transfer.answers.get(request.request_id)
            if answer is None:
                answer = self.transfer.allows(action, request)
                if answer.accepted:
                    after = self.transfer.model_copy(deep=True)
                    entry = after.timeline_entry(action, request, workflow.now())
                    answer = await self._write(after, after.carry_out(request, workflow.now()), entry)
                self.transfer.remember(request.request_id, answer)
        return answer

    def check(self, action: TransferAction, request: Request) -> None:
        """Raise ``ApplicationError`` of type ``Refused``, detail ``Answer``, if the transfer forbids the request."""
        if request.request_id not in self.transfer.answers:
            answer = self.transfer.allows(action, request)
            if not answer.accepted:
                raise ApplicationError(answer.text, answer, type="Refused", non_retryable=True)

    @workflow.signal(name="approve", description="Approve: reserve the goods at the origin")
    async def signal_approve(self, request: Approve) -> None:
        await self.act(TransferAction.APPROVE, request)

    @workflow.update(name="approve", description="Approve: reserve the goods at the origin")
    async def approve(self, request: Approve) -> Answer:
        return await self.act(TransferAction.APPROVE, request)

    @approve.validator
    def check_approve(self, request: Approve) -> None:
        self.check(TransferAction.APPROVE, request)

    @workflow.signal(name="ship", description='Ship, some or all: {"request_id": "...", "goods": {"A001": 3}}')
    async def signal_ship(self, request: Ship) -> None:
        await self.act(TransferAction.SHIP, request)

    @workflow.update(name="ship", description="Ship goods from the origin, some or all")
    async def ship(self, request: Ship) -> Answer:
        return await self.act(TransferAction.SHIP, request)

    @ship.validator
    def check_ship(self, request: Ship) -> None:
        self.check(TransferAction.SHIP, request)

    @workflow.signal(name="receive", description='Receive, some or all: {"request_id": "...", "goods": {"A001": 3}}')
    async def signal_receive(self, request: Receive) -> None:
        await self.act(TransferAction.RECEIVE, request)

    @workflow.update(name="receive", description="Receive goods at the destination, some or all")
    async def receive(self, request: Receive) -> Answer:
        return await self.act(TransferAction.RECEIVE, request)

    @receive.validator
    def check_receive(self, request: Receive) -> None:
        self.check(TransferAction.RECEIVE, request)

    @workflow.signal(name="cancel", description="Cancel; after shipping say how: return or write_off")
    async def signal_cancel(self, request: CancelTransfer) -> None:
        await self.act(TransferAction.CANCEL, request)

    @workflow.update(name="cancel", description="Cancel; after shipping say how: return or write_off")
    async def cancel(self, request: CancelTransfer) -> Answer:
        return await self.act(TransferAction.CANCEL, request)

    @cancel.validator
    def check_cancel(self, request: CancelTransfer) -> None:
        self.check(TransferAction.CANCEL, request)

    @workflow.query(name="state", description="The whole transfer")
    def get_state(self) -> Transfer:
        return self.transfer

    async def _write(
        self,
        after: Transfer,
        moves: list[Move] | None = None,
        entry: Entry | None = None,
        exception: NewException | None = None,
    ) -> Answer:
        """Write one step. The changed transfer replaces the present one, unless the stock does not allow the step."""
        after.revision += 1
        step = TransferStep(
            transfer=after.model_copy(update={"answers": {}}),
            moves=tuple(moves or ()),
            entry=entry,
            exception=exception,
            at=workflow.now(),
        )
        answer = await workflow.execute_local_activity(
            steps.record_step, step, start_to_close_timeout=timedelta(seconds=30), retry_policy=_RETRY
        )
        if answer.accepted:
            self.transfer = after
            workflow.set_current_details(_details(after))
        return answer


def _details(transfer: Transfer) -> str:
    """Return Markdown for the Temporal UI."""
    route = f"{transfer.origin} → {transfer.destination}"
    in_transit = listed(transfer.outstanding)
    return f"**{t(f'transfer.{transfer.status}')}** · {route} · {listed(transfer.planned)}" + (
        f"\n- {t('transfer.on_its_way', goods=in_transit, heading=transfer.heading)}" if in_transit else ""
    )

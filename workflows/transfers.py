"""TransferWorkflow: goods from one of our locations to another, from the draft until the last of them is accounted for.

What is asked of it is carried out one act at a time: on a copy of the transfer, which becomes the transfer once its
step is written.
"""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.stock import transfers as steps
    from models.i18n import t
    from models.order import Alert, Entry
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
"""Events after which it goes on in a new history, so that none passes 2,000."""

_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(minutes=1))


@workflow.defn
class TransferWorkflow:
    @workflow.init
    def __init__(self, given: Transfer) -> None:
        self.transfer = given
        self._lock = asyncio.Lock()

    @workflow.run
    async def run(self, given: Transfer) -> TransferStatus:
        life = asyncio.create_task(self._live())
        while not life.done():
            try:
                await workflow.wait_condition(life.done)
            except asyncio.CancelledError:
                if workflow.cancellation_reason() is None:
                    raise
                wish = CancelTransfer(request_id=f"cancelled:{workflow.now().isoformat()}", actor="temporal")
                await self.act(TransferAction.CANCEL, wish)
        await life
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.transfer.status

    async def _live(self) -> None:
        """Waits for people until nothing is on its way any more; once it is late, calls for one."""
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
                await self._overdue()
            else:
                if not self.transfer.status.final:
                    workflow.continue_as_new(self.transfer)

    async def _overdue(self) -> None:
        async with self._lock:
            if not self.transfer.status.final:
                after = self.transfer.model_copy(update={"overdue": True})
                await self._write(after, alert=after.late())

    @property
    def _history_full(self) -> bool:
        return (
            workflow.info().get_current_history_length() > HISTORY_LIMIT
            and not self._lock.locked()
            and workflow.all_handlers_finished()
        )

    # What people ask

    async def act(self, action: TransferAction, request: Request) -> Answer:
        """Carries a request out once; its answer, yes or no, stands for every repetition."""
        async with self._lock:
            answer = self.transfer.answers.get(request.request_id)
            if answer is None:
                answer = self.transfer.allows(action, request)
                if answer.accepted:
                    after = self.transfer.model_copy(deep=True)
                    entry = after.told(action, request, workflow.now())
                    answer = await self._write(after, after.carry_out(request, workflow.now()), entry)
                self.transfer.remember(request.request_id, answer)
        return answer

    def check(self, action: TransferAction, request: Request) -> None:
        """Raises ``ApplicationError`` of type ``Refused`` with the ``Answer`` as its detail."""
        if request.request_id not in self.transfer.answers:
            answer = self.transfer.allows(action, request)
            if not answer.accepted:
                raise ApplicationError(answer.reason, answer, type="Refused", non_retryable=True)

    @workflow.signal(name="approve", description="Set the goods aside at the origin")
    async def signal_approve(self, request: Approve) -> None:
        await self.act(TransferAction.APPROVE, request)

    @workflow.update(name="approve", description="Set the goods aside at the origin")
    async def approve(self, request: Approve) -> Answer:
        return await self.act(TransferAction.APPROVE, request)

    @approve.validator
    def check_approve(self, request: Approve) -> None:
        self.check(TransferAction.APPROVE, request)

    @workflow.signal(name="ship", description='The goods leave: {"request_id": "...", "goods": {"A001": 3}}, or all')
    async def signal_ship(self, request: Ship) -> None:
        await self.act(TransferAction.SHIP, request)

    @workflow.update(name="ship", description="The goods leave the origin")
    async def ship(self, request: Ship) -> Answer:
        return await self.act(TransferAction.SHIP, request)

    @ship.validator
    def check_ship(self, request: Ship) -> None:
        self.check(TransferAction.SHIP, request)

    @workflow.signal(name="receive", description='Arrived: {"request_id": "...", "goods": {"A001": 3}}, or all')
    async def signal_receive(self, request: Receive) -> None:
        await self.act(TransferAction.RECEIVE, request)

    @workflow.update(name="receive", description="Goods have arrived, in part or all of them")
    async def receive(self, request: Receive) -> Answer:
        return await self.act(TransferAction.RECEIVE, request)

    @receive.validator
    def check_receive(self, request: Receive) -> None:
        self.check(TransferAction.RECEIVE, request)

    @workflow.signal(name="cancel", description="Cancel; once it has left say how: return or write_off")
    async def signal_cancel(self, request: CancelTransfer) -> None:
        await self.act(TransferAction.CANCEL, request)

    @workflow.update(name="cancel", description="Cancel; once it has left say how: return or write_off")
    async def cancel(self, request: CancelTransfer) -> Answer:
        return await self.act(TransferAction.CANCEL, request)

    @cancel.validator
    def check_cancel(self, request: CancelTransfer) -> None:
        self.check(TransferAction.CANCEL, request)

    @workflow.query(name="state", description="Everything the transfer knows of itself")
    def get_state(self) -> Transfer:
        return self.transfer

    # Writing down

    async def _write(
        self, after: Transfer, moves: list[Move] | None = None, entry: Entry | None = None, alert: Alert | None = None
    ) -> Answer:
        """Has the step written; the transfer is so from now on, unless the stock does not allow it."""
        after.revision += 1
        step = TransferStep(
            transfer=after.model_copy(update={"answers": {}}),
            moves=tuple(moves or ()),
            entry=entry,
            alert=alert,
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
    """Markdown for the Temporal UI."""
    way = f"{transfer.origin} → {transfer.destination}"
    on_its_way = listed(transfer.outstanding)
    return f"**{t(f'transfer.{transfer.status}')}** · {way} · {listed(transfer.planned)}" + (
        f"\n- {t('transfer.on_its_way', goods=on_its_way, heading=transfer.heading)}" if on_its_way else ""
    )

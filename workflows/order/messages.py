"""What may be asked of an order: every verb as a signal (for the Temporal UI and CLI) and as an update (yes, no, why).

A validator refuses at once, leaving no trace in the history, what the order's stage forbids; the handler may still
answer no where somebody else has the last word, such as a warehouse that has shipped.
"""

from abc import abstractmethod

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from models.requests import (
        Answer,
        Approve,
        Cancel,
        Expedite,
        HoldRequest,
        Modify,
        Note,
        Reject,
        Release,
        Replan,
        Request,
    )
    from models.state import Action, OrderState


class OrderMessages:
    """The message handlers of the order workflow."""

    state: OrderState

    @abstractmethod
    async def act(self, action: Action, request: Request) -> Answer:
        """Carries out a request once, whatever the number of times it arrives."""

    def check(self, action: Action, request: Request) -> None:
        """Raises ``ApplicationError`` of type ``Refused`` with the ``Answer`` as its detail."""
        if request.request_id not in self.state.answers:
            answer = self.state.allows(action)
            if not answer.accepted:
                raise ApplicationError(answer.reason, answer, type="Refused", non_retryable=True)

    @workflow.signal(name="cancel", description='Cancel: {"request_id": "...", "actor": "...", "reason": "..."}')
    async def signal_cancel(self, request: Cancel) -> None:
        await self.act(Action.CANCEL, request)

    @workflow.update(name="cancel", description="Cancel; asks the warehouses first where they hold the order")
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

    @workflow.signal(name="hold", description="Stop the order from advancing")
    async def signal_hold(self, request: HoldRequest) -> None:
        await self.act(Action.HOLD, request)

    @workflow.update(name="hold", description="Stop the order from advancing")
    async def hold(self, request: HoldRequest) -> Answer:
        return await self.act(Action.HOLD, request)

    @hold.validator
    def check_hold(self, request: HoldRequest) -> None:
        self.check(Action.HOLD, request)

    @workflow.signal(name="release", description="Lift the holds of one kind, or all of them")
    async def signal_release(self, request: Release) -> None:
        await self.act(Action.RELEASE, request)

    @workflow.update(name="release", description="Lift the holds of one kind, or all of them")
    async def release(self, request: Release) -> Answer:
        return await self.act(Action.RELEASE, request)

    @release.validator
    def check_release(self, request: Release) -> None:
        self.check(Action.RELEASE, request)

    @workflow.signal(name="approve", description="Review: let the order go on")
    async def signal_approve(self, request: Approve) -> None:
        await self.act(Action.APPROVE, request)

    @workflow.update(name="approve", description="Review: let the order go on")
    async def approve(self, request: Approve) -> Answer:
        return await self.act(Action.APPROVE, request)

    @approve.validator
    def check_approve(self, request: Approve) -> None:
        self.check(Action.APPROVE, request)

    @workflow.signal(name="reject", description="Review: end the order")
    async def signal_reject(self, request: Reject) -> None:
        await self.act(Action.REJECT, request)

    @workflow.update(name="reject", description="Review: end the order")
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

    @workflow.signal(name="replan", description="Plan what has not left again, elsewhere")
    async def signal_replan(self, request: Replan) -> None:
        await self.act(Action.REPLAN, request)

    @workflow.update(name="replan", description="Plan what has not left again, elsewhere")
    async def replan(self, request: Replan) -> Answer:
        return await self.act(Action.REPLAN, request)

    @replan.validator
    def check_replan(self, request: Replan) -> None:
        self.check(Action.REPLAN, request)

    @workflow.signal(name="note", description="Write a remark on the order's timeline")
    async def signal_note(self, request: Note) -> None:
        await self.act(Action.NOTE, request)

    @workflow.update(name="note", description="Write a remark on the order's timeline")
    async def note(self, request: Note) -> Answer:
        return await self.act(Action.NOTE, request)

    @note.validator
    def check_note(self, request: Note) -> None:
        self.check(Action.NOTE, request)

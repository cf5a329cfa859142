"""Start the workflow of an order, and read what it was started with."""

from typing import Any

from temporalio.client import Client
from temporalio.common import (
    Priority,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from models import search_attributes
from models.i18n import t
from models.money import Money
from models.order import ChannelOrder
from models.policy import Policy
from models.settings import settings
from models.state import OrderInput, OrderState


async def start_order(client: Client, order: ChannelOrder, policy: Policy, state: OrderState | None = None) -> bool:
    """Start an order's workflow, once for its id; again where it failed. Return ``False`` if it was started before.

    ``state`` continues an order whose workflow was lost. Raise ``RPCError`` or ``RuntimeError`` if the engine is down.
    """
    attributes: list[SearchAttributePair[Any]] = [
        SearchAttributePair(search_attributes.STATUS, "received"),
        SearchAttributePair(search_attributes.CHANNEL, order.channel),
        SearchAttributePair(search_attributes.SHOP, order.shop),
        SearchAttributePair(search_attributes.PRIORITY, order.priority),
    ]
    if order.promised_by is not None:
        attributes.append(SearchAttributePair(search_attributes.PROMISED_BY, order.promised_by))
    amount = Money(amount=order.total, currency=order.currency).text(settings().lang)
    try:
        await client.start_workflow(
            "OrderWorkflow",
            OrderInput(order=order, policy=policy, state=state),
            id=order.order_id,
            task_queue=settings().task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            priority=Priority(priority_key=order.priority, fairness_key=f"{order.channel}:{order.shop}"[:64]),
            search_attributes=TypedSearchAttributes(attributes),
            static_summary=t("summary.order", channel=order.channel, lines=len(order.lines), amount=amount),
        )
    except WorkflowAlreadyStartedError:
        return False
    return True


async def started_with(client: Client, order_id: str) -> ChannelOrder | None:
    """Return the order as its channel had it when its workflow was started; ``None`` if there is no such workflow.

    Raise ``RPCError`` or ``RuntimeError`` if the engine is down.
    """
    try:
        async for event in client.get_workflow_handle(order_id).fetch_history_events(page_size=1):
            payloads = event.workflow_execution_started_event_attributes.input.payloads
            (given,) = await client.data_converter.decode(payloads, [OrderInput])
            order: ChannelOrder = given.order
            return order
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
    return None


async def is_admitted(client: Client, order_id: str) -> bool:
    """Whether an order's workflow exists and has been admitted, so that it must have a row.

    Raise ``RPCError`` or ``RuntimeError`` if the engine is down.
    """
    try:
        described = await client.get_workflow_handle(order_id).describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return False
    return described.typed_search_attributes.get(search_attributes.STATUS) != "received"

"""Calls that keep failing: each has one exception, which closes as soon as the call succeeds.

A call is an activity with its subject: a fulfillment order, a shop or an account.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Table, select
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.kit.database import transaction
from activities.records import exceptions
from models.base import bounded_key
from models.exceptions import ExceptionKind, NewException
from models.fulfillment import FulfillmentRow
from models.i18n import message

_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]

ALERT_AFTER = timedelta(minutes=30)
"""How long a call must have failed without a success in between."""
_KINDS = {
    "confirm_shipment": ExceptionKind.CHANNEL_REFUSED,
    "cancel_waybill": ExceptionKind.WAYBILL_NOT_CANCELLED,
}
"""The calls of fulfillment orders whose failure has a kind of its own. The workflow opens it too, under this key."""
_failing_since: dict[str, datetime | None] = {}
"""Of calls within activities that go on when one fails, by key; of this process. ``None``: the last one succeeded."""


def failing_call(call: str, subject: Sequence[str]) -> NewException:
    """Return the exception of a call. ``call`` is an activity type; its text is ``call.{call}``.

    ``subject`` is the id of a fulfillment order, the channel and shop, or whatever else distinguishes such calls.
    """
    kind = _KINDS.get(call.partition(".")[2], ExceptionKind.CALL_FAILING)
    if subject and subject[0].startswith("order:"):
        order_id, _, _ = subject[0].rpartition(":")
        own_key = ":".join((subject[0], kind, *((call,) if kind is ExceptionKind.CALL_FAILING else ())))
        shop = ":".join(order_id.split(":")[1:3])
        return NewException(key=own_key, kind=kind, order_id=order_id, fulfillment_id=subject[0], shop=shop)
    shop = ":".join(subject) if call.startswith(("intake.", "stock.")) else ""
    return NewException(key=bounded_key(":".join((kind, call, *subject))), kind=kind, shop=shop)


def reason(error: BaseException) -> str:
    """Return the message of a failure, without what an unknown one may reveal."""
    return (
        error.message
        if isinstance(error, ApplicationError)
        else message("error.unexpected", error=type(error).__name__)
    )


async def report(exception: NewException, call: str, reason: str, since: datetime) -> None:
    """Open the exception of a call that has failed since then. ``reason`` is a message."""
    subject = exception.fulfillment_id.rpartition(":")[2] or exception.key.partition(f"{call}:")[2]
    detail = {"call": call, "subject": subject, "reason": reason}
    query = select(_fulfillments.c.warehouse, _fulfillments.c.carrier, _fulfillments.c.waybill_no)
    async with transaction() as connection:
        known = await connection.execute(query.where(_fulfillments.c.id == exception.fulfillment_id))
        where = dict(row._mapping) if (row := known.one_or_none()) else {}
        changes = {"detail": detail, "cause_at": since, **where}
        await exceptions.open_all(connection, [exception.model_copy(update=changes)])


async def settle(exception: NewException) -> None:
    """Close the exception of a call that has succeeded."""
    async with transaction() as connection:
        await exceptions.close(connection, exception.key, exceptions.SYSTEM, "")


async def observe(subject: Sequence[str], failure: str = "") -> None:
    """Note the outcome of one call of the present activity, which goes on when such a call fails.

    ``failure`` is a message, or empty. Nothing is noted outside of an activity.
    """
    if not activity.in_activity():
        return
    call = activity.info().activity_type
    exception, now = failing_call(call, subject), datetime.now(UTC)
    since = _failing_since.get(exception.key, now)
    if not failure:
        if exception.key not in _failing_since or since is not None:
            _failing_since[exception.key] = None
            await settle(exception)
        return
    since = _failing_since[exception.key] = since or now
    if now - since >= ALERT_AFTER:
        await report(exception, call, failure, since)

"""Dry runs of a review rule on past orders. Nothing is written.

An order is judged in the channel's latest version. Its buyer's history is counted back from the time it was placed,
with current cancellations; stock, list prices and the blacklist are the current ones.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Row, Select, Table, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from activities import cleansing
from activities.kit.database import transaction
from activities.orders import review
from activities.orders.review import facts
from activities.orders.review.samples import ORDER_VOCABULARY
from models.base import Value
from models.intake import ChannelOrderRow
from models.order import ChannelOrder, OrderRow
from models.review import ReviewRule, Values

_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]
_channel_orders: Table = ChannelOrderRow.__table__  # type: ignore[attr-defined]

MOST = 2000
"""The largest page of orders."""
_BATCH = 200
_MAX_EXAMPLES = 20

CURRENT_FACTS = {"stock": "stock", "risk": "risk", "prices": "list_price"}
"""Lookups without history → the facts they provide."""


class BadCursor(ValueError):
    pass


class Example(Value):
    """An order to which the rule would have applied or for which it failed, with the facts it used."""

    order_id: str
    status: str
    values: Values = {}
    failure: str = ""


class Trial(Value):
    """The effect that a rule would have had on one page of orders."""

    total: int
    """Orders from the start of this page on."""
    orders: int
    """Orders on this page."""
    applied: int
    decisions: dict[str, int]
    """Counts by kind of decision."""
    examples: tuple[Example, ...]
    failed: int
    failures: tuple[Example, ...]
    of_now: tuple[str, ...]
    """Facts used whose values are current, not those at the time of the order."""
    next: str | None
    """The ``cursor`` of the next page."""


async def run(rule: ReviewRule, since: datetime, until: datetime | None, limit: int, cursor: str | None) -> Trial:
    """Try a rule, active or not, on one page of orders. Raises ``BadCursor``."""
    rule = rule.model_copy(update={"active": True})
    needed = facts.needs(ORDER_VOCABULARY.compile(rule.condition).paths)
    applied: Counter[str] = Counter()
    examples: list[Example] = []
    failures: list[Example] = []
    count = matched = failed = 0
    after = _decode_cursor(cursor)
    async with transaction() as connection:
        total = await connection.scalar(_past_orders(rule, since, until, after).with_only_columns(func.count())) or 0
        while count < limit:
            batch = await _read_batch(connection, rule, since, until, after, min(_BATCH, limit - count))
            if not batch:
                break
            count, after = count + len(batch), (batch[-1].placed_at, batch[-1].id)
            orders = [cleansing.standardise(row.document) for row in batch]
            gathered = await facts.gather(connection, orders, needed, datetime.now(UTC))
            for row, order, known in zip(batch, orders, gathered, strict=True):
                for result in review.judge([rule], order, known, row.placed_at).ruled:
                    example = Example(order_id=row.id, status=row.status, values=result.values, failure=result.failure)
                    if result.failure:
                        failed += 1
                        failures += [example] * (len(failures) < _MAX_EXAMPLES)
                    else:
                        matched += 1
                        examples += [example] * (len(examples) < _MAX_EXAMPLES)
                        applied.update(each.do for each in rule.decisions)
    return Trial(
        total=total,
        orders=count,
        applied=matched,
        decisions=dict(applied),
        examples=tuple(examples),
        failed=failed,
        failures=tuple(failures),
        of_now=tuple(sorted(CURRENT_FACTS[need] for need in needed if need in CURRENT_FACTS)),
        next=_encode_cursor(after) if after is not None and count < total else None,
    )


def _past_orders(
    rule: ReviewRule, since: datetime, until: datetime | None, after: tuple[datetime, str] | None
) -> Select[tuple[object, ...]]:
    query = (
        select(_orders.c.id, _orders.c.placed_at, _orders.c.status, _channel_orders.c.document)
        .join(_channel_orders, _channel_orders.c.order_id == _orders.c.id)
        .where(_orders.c.placed_at >= since)
    )
    if until is not None:
        query = query.where(_orders.c.placed_at < until)
    if rule.shops:
        query = query.where((_orders.c.channel + ":" + _orders.c.shop).in_(rule.shops))
    if after is not None:
        query = query.where(tuple_(_orders.c.placed_at, _orders.c.id) > after)
    return query


async def _read_batch(
    connection: AsyncConnection,
    rule: ReviewRule,
    since: datetime,
    until: datetime | None,
    after: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row[tuple[str, datetime, str, ChannelOrder]]]:
    query = _past_orders(rule, since, until, after).order_by(_orders.c.placed_at, _orders.c.id).limit(limit)
    return (await connection.execute(query)).all()  # type: ignore[return-value]


def _encode_cursor(after: tuple[datetime, str]) -> str:
    return urlsafe_b64encode(f"{after[0].isoformat()} {after[1]}".encode()).decode()


def _decode_cursor(cursor: str | None) -> tuple[datetime, str] | None:
    if cursor is None:
        return None
    try:
        at, _, order_id = urlsafe_b64decode(cursor).decode().partition(" ")
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise BadCursor from None
    if moment.tzinfo is None:
        raise BadCursor
    return moment, order_id

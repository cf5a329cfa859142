"""Dry runs: what a rule would have done with orders of the past. Nothing is written.

An order is judged as the channel last told it. Its buyer's history is counted back from its placing, with what has
been cancelled since counted as cancelled; stock, list prices and the blacklist are those of now.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Row, Select, Table, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.kit.database import transaction
from activities.orders import cleansing, review
from activities.orders.review import facts
from activities.orders.review.samples import ORDERS
from models.base import Value
from models.intake import ChannelOrderRow
from models.order import ChannelOrder, OrderRow
from models.review import ReviewRule, Values

_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]
_told: Table = ChannelOrderRow.__table__  # type: ignore[attr-defined]

MOST = 2000
"""Orders of one run: more are asked for page by page."""
_BATCH = 200
_EXAMPLES = 20

OF_NOW = {"stock": "stock", "risk": "risk", "prices": "list_price"}
"""Facts of which no history is kept."""


class BadCursor(ValueError):
    pass


class Example(Value):
    """An order to which it would have applied, and the facts it looked at."""

    order_id: str
    status: str
    values: Values = {}
    failure: str = ""


class Trial(Value):
    """What a rule would have done with the orders of one page."""

    total: int
    """Orders from where this page begins."""
    orders: int
    """Those of this page."""
    applied: int
    decisions: dict[str, int]
    """How often each kind of decision."""
    examples: tuple[Example, ...]
    failed: int
    failures: tuple[Example, ...]
    of_now: tuple[str, ...]
    """Facts it looks at that are those of now, not of then."""
    next: str | None
    """Hand it back as ``cursor`` for the next page."""


async def run(rule: ReviewRule, since: datetime, until: datetime | None, limit: int, cursor: str | None) -> Trial:
    """Asks a rule, active or not, of one page of orders. Raises ``BadCursor``."""
    rule = rule.model_copy(update={"active": True})
    needed = facts.needs(ORDERS.compiled(rule.condition).paths)
    applied: Counter[str] = Counter()
    examples: list[Example] = []
    failures: list[Example] = []
    count = matched = failed = 0
    after = _after(cursor)
    async with transaction() as connection:
        total = await connection.scalar(_past(rule, since, until, after).with_only_columns(func.count())) or 0
        while count < limit:
            batch = await _read(connection, rule, since, until, after, min(_BATCH, limit - count))
            if not batch:
                break
            count, after = count + len(batch), (batch[-1].placed_at, batch[-1].id)
            orders = [cleansing.standardise(row.document) for row in batch]
            known = await facts.gather(connection, orders, needed, datetime.now(UTC))
            for row, order, found in zip(batch, orders, known, strict=True):
                for ruled in review.judge([rule], order, found, row.placed_at).ruled:
                    seen = Example(order_id=row.id, status=row.status, values=ruled.values, failure=ruled.failure)
                    if ruled.failure:
                        failed += 1
                        failures += [seen] * (len(failures) < _EXAMPLES)
                    else:
                        matched += 1
                        examples += [seen] * (len(examples) < _EXAMPLES)
                        applied.update(each.do for each in rule.decisions)
    return Trial(
        total=total,
        orders=count,
        applied=matched,
        decisions=dict(applied),
        examples=tuple(examples),
        failed=failed,
        failures=tuple(failures),
        of_now=tuple(sorted(OF_NOW[need] for need in needed if need in OF_NOW)),
        next=_cursor(after) if after is not None and count < total else None,
    )


def _past(
    rule: ReviewRule, since: datetime, until: datetime | None, after: tuple[datetime, str] | None
) -> Select[tuple[object, ...]]:
    query = (
        select(_orders.c.id, _orders.c.placed_at, _orders.c.status, _told.c.document)
        .join(_told, _told.c.order_id == _orders.c.id)
        .where(_orders.c.placed_at >= since)
    )
    if until is not None:
        query = query.where(_orders.c.placed_at < until)
    if rule.shops:
        query = query.where((_orders.c.channel + ":" + _orders.c.shop).in_(rule.shops))
    if after is not None:
        query = query.where(tuple_(_orders.c.placed_at, _orders.c.id) > after)
    return query


async def _read(
    connection: AsyncConnection,
    rule: ReviewRule,
    since: datetime,
    until: datetime | None,
    after: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row[tuple[str, datetime, str, ChannelOrder]]]:
    query = _past(rule, since, until, after).order_by(_orders.c.placed_at, _orders.c.id).limit(limit)
    return (await connection.execute(query)).all()  # type: ignore[return-value]


def _cursor(after: tuple[datetime, str]) -> str:
    return urlsafe_b64encode(f"{after[0].isoformat()} {after[1]}".encode()).decode()


def _after(cursor: str | None) -> tuple[datetime, str] | None:
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

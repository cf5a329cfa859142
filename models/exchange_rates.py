"""Exchange rates: limits, rules and tariffs are in the home currency, orders in any."""

from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal, localcontext

from sqlalchemy import Column, Numeric
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.base import CHINA
from models.money import Money

NO_RATE = "hold.review.no_rate"
"""The reason of a hold that waits for a rate; its param ``currency`` names the one that cannot be converted."""
_DIGITS = 60
"""Enough for the exact product of any amount and rate."""


class ExchangeRateRow(SQLModel, table=True):
    """From ``day`` on, in China, one unit of ``currency`` is worth ``rate`` of ``base``, until a later day's rate."""

    __tablename__ = "exchange_rates"

    currency: str = Col(primary_key=True)
    base: str = Col(primary_key=True)
    day: date = Col(primary_key=True)
    rate: Decimal = Col(sa_column=Column(Numeric(24, 12), nullable=False))


class NoRate(Exception):
    """No rate between two currencies is known for that day."""

    def __init__(self, currency: str, to: str) -> None:
        self.currency = currency
        self.to = to
        super().__init__(f"no exchange rate from {currency} to {to}")


class Rates:
    """The exchange rates known."""

    def __init__(self, rows: Iterable[tuple[str, str, date, Decimal]] = ()) -> None:
        self._rates: dict[tuple[str, str], dict[date, Decimal]] = {}
        for currency, base, day, rate in rows:
            self._rates.setdefault((currency, base), {})[day] = rate

    def convert(self, amount: Money, to: str, at: datetime) -> Decimal:
        """Return the amount in the currency ``to``, unrounded, at the newest rate of that day in either direction.

        Nothing is nothing in every currency. Raise ``NoRate`` where no rate is known.
        """
        if amount.currency == to or not amount.amount:
            return amount.amount
        today = at.astimezone(CHINA).date()
        found = [
            (day, direct, rate)
            for direct, pair in ((True, (amount.currency, to)), (False, (to, amount.currency)))
            for day, rate in self._rates.get(pair, {}).items()
            if day <= today
        ]
        if not found:
            raise NoRate(amount.currency, to)
        _, direct, rate = max(found)
        with localcontext() as context:
            context.prec = _DIGITS
            return amount.amount * rate if direct else amount.amount / rate

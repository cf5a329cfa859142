"""Money: an exact amount and its currency."""

from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Self

from babel.numbers import format_currency, get_currency_precision
from pydantic import Field

from models.base import Neutral, Value

Amount = Annotated[Decimal, Field(max_digits=18, decimal_places=4)]
Exact = Annotated[Decimal, Field(max_digits=26, decimal_places=12)]
"""A price or part of one as a channel states it, never rounded: only the sum is."""
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217 code"), Neutral("XXX")]
"""``XXX``: unknown."""


def minor_unit(currency: str) -> Decimal:
    """Return the smallest amount of a currency, such as 0.01."""
    return Decimal(1).scaleb(-get_currency_precision(currency))


def amount_text(amount: Decimal, currency: str) -> str:
    """Return an amount with the decimals of its currency, or with more where it has more."""
    rounded = amount.quantize(minor_unit(currency))
    return f"{rounded if rounded == amount else amount.normalize():f}"


class Money(Value):
    """An amount in a currency. Arithmetic between two currencies raises ``ValueError``."""

    amount: Amount
    currency: Currency = "CNY"

    def __add__(self, other: Self) -> "Money":
        return Money(amount=self.amount + self._same(other), currency=self.currency)

    def __sub__(self, other: Self) -> "Money":
        return Money(amount=self.amount - self._same(other), currency=self.currency)

    def __mul__(self, quantity: int) -> "Money":
        return Money(amount=self.amount * quantity, currency=self.currency)

    def split(self, parts: int) -> list["Money"]:
        """Split into ``parts`` amounts that differ by at most one minor unit and add up exactly."""
        unit = minor_unit(self.currency)
        share = (self.amount / parts).quantize(unit, ROUND_HALF_EVEN)
        shares = [share] * parts
        rest = self.amount - share * parts
        step = unit if rest > 0 else -unit
        for index in range(int(abs(rest) // unit)):
            shares[index] += step
        shares[0] += self.amount - sum(shares)
        return [Money(amount=each, currency=self.currency) for each in shares]

    def text(self, lang: str) -> str:
        """Format for people, such as ``¥128.50``."""
        return str(format_currency(self.amount, self.currency, locale=lang.replace("-", "_")))

    def _same(self, other: "Money") -> Decimal:
        if other.currency != self.currency:
            raise ValueError(f"cannot combine {self.currency} with {other.currency}")
        return other.amount

"""Money stays exact in every operation."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.money import Money

amounts = st.decimals(Decimal("0"), Decimal("999999"), places=2)


@given(amounts, st.integers(1, 50))
def test_split_adds_up_and_parts_differ_by_a_cent_at_most(amount: Decimal, parts: int) -> None:
    shares = Money(amount=amount).split(parts)
    assert sum(share.amount for share in shares) == amount
    assert max(share.amount for share in shares) - min(share.amount for share in shares) <= Decimal("0.01")


@given(amounts, st.integers(1, 20))
def test_yen_has_no_minor_unit(amount: Decimal, parts: int) -> None:
    whole = amount.quantize(Decimal(1))
    assert all(share.amount == share.amount.to_integral() for share in Money(amount=whole, currency="JPY").split(parts))


def test_adding_two_currencies_raises() -> None:
    with pytest.raises(ValueError, match="CNY with USD"):
        Money(amount=Decimal(1)) + Money(amount=Decimal(1), currency="USD")


def test_text_is_localised() -> None:
    assert Money(amount=Decimal("1280.5")).text("zh-CN") == "¥1,280.50"
    assert Money(amount=Decimal("1280.5"), currency="JPY").text("en") == "¥1,280"

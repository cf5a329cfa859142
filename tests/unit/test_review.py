"""Review conditions: the supported language, its limits, and their effect on orders."""

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from time import process_time
from typing import Any

import cel
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from activities.kit import expressions
from activities.kit.expressions import BUDGET, LONGEST_LIST, InvalidExpression
from activities.orders import review
from activities.orders.review import facts
from activities.orders.review.samples import ORDER_VOCABULARY
from models.exchange_rates import NoRate, Rates
from models.hold import Hold
from models.money import Money
from models.order import ChannelOrder
from models.policy import Policy
from models.review import ReviewRule
from tests.unit.orders import an_order, line

AT = datetime(2026, 11, 1, tzinfo=UTC)


def known(order: ChannelOrder) -> dict[str, Any]:
    return dict(ORDER_VOCABULARY.samples[0]) | facts.order_facts(order, {}, Rates(), AT)


def rule(number: int, *decisions: dict[str, Any], **more: Any) -> ReviewRule:
    given = {"number": number, "name": "r", "condition": "true", "decisions": decisions}
    return ReviewRule.model_validate(given | more)


def applies(condition: str, order: ChannelOrder) -> bool:
    expression = ORDER_VOCABULARY.check(condition)
    return expression.evaluate(expressions.context(expression.roots, known(order)))


@pytest.mark.parametrize(
    "condition",
    [
        "order.total > 299",
        "order.total == 300.0 && order.quantity == 3",
        "lines.exists(l, l.sku == 'B006' && l.quantity >= 2)",
        "lines.all(l, l.unit_price >= 50.0)",
        "lines.filter(l, l.quantity > 1).size() == 1",
        "lines.exists(a, lines.exists(b, a.sku == b.sku))",
        "['急', '发票'].exists(w, remarks.buyer_message.contains(w))",
        "remarks.buyer_message.matches('发票|invoice')",
        "order.campaign in ['', 'spring']",
        "has(order.custom.vip) && order.custom.vip == 'gold'",
        "recipient.province.startsWith('上海') && !(order.placed_hour in [25])",
        "amounts.discount_rate == 0.0 && amounts.mismatch == 0.0",
        "double(order.quantity) * 1.5 < order.total ? true : false",
        "order.shop == 'own:web' && order.kind == 'own_site'",
    ],
)
def test_supported_conditions(condition: str) -> None:
    order = an_order("1", line(1, "A001", 1, "100"), line(2, "B006", 2, "100"), buyer_message="请开发票")
    assert applies(condition, order.model_copy(update={"custom": {"vip": "gold"}}))


@pytest.mark.parametrize(
    ("condition", "at", "message"),
    [
        ("order.totl > 1", 0, "no fact order.totl"),
        ("1 < 2 && nobody.total > 1", 9, "no fact nobody.total"),
        ("recipient.phone == '1'", 0, "no fact recipient.phone"),
        ("recipient.name == '1'", 0, "no fact"),
        ("lines.exists(l, l.nothing > 1)", 16, "no fact lines.nothing"),
        ("order.total > ", 14, "Syntax error"),
        ("order.total > 5 §", 16, "Unexpected"),
        ("order.total > 5 // why", 16, "Unexpected"),
        ("timestamp('2026-01-01T00:00:00Z') > timestamp('2026-01-01T00:00:00Z')", 0, "no function timestamp"),
        ("order.total > 'dear'", None, "Do not mix"),
        ("order.quantity * 1.5 > 3.0", None, "Do not mix"),
        ("order.total", None, "true or false"),
        ("lines == lines", 0, "Use exists"),
        ("lines.exists(order, true)", 6, "a name of its own"),
        ("", 0, "Syntax error"),
    ],
)
def test_invalid_condition_is_refused_with_its_position(condition: str, at: int | None, message: str) -> None:
    with pytest.raises(InvalidExpression, match=message) as refused:
        ORDER_VOCABULARY.check(condition)
    assert refused.value.position == at


HOSTILE = [
    "lines.all(a, lines.all(b, lines.all(c, true)))",
    "lines.all(a, lines.all(b, a.sku in ['x', 'y'] && b.sku.matches('(x+x+)+y')))",
    "(lines + lines + lines + lines).all(a, lines.all(b, true))",
    "lines.map(a, lines.map(b, lines)).size() > 1",
    "lines.map(a, [a.sku, a.sku]).map(x, x + x).map(y, y + y).size() > 1",
    "[1, 2].all(a, [1, 2].all(b, [1, 2].all(c, [1, 2].all(d, true))))",
    "'''" + "x" * 100 + "'''.size() > 1",
    "order.total > 1" + " || order.total > 1" * 60,
    "(" * 900 + "true" + ")" * 90,
    "order.channel == '\x00'",
    'r"\\" == "" || lines.all(a, lines.all(b, lines.all(c, true))) || r"\\" == ""',
    "'a'.matches('((((a{9}){9}){9}){9}){99}')",
]


@pytest.mark.parametrize("condition", HOSTILE)
def test_hostile_expression_is_refused_quickly(condition: str) -> None:
    begun = process_time()
    with pytest.raises(InvalidExpression):
        ORDER_VOCABULARY.check(condition)
    assert process_time() - begun < 0.5


@pytest.mark.parametrize(
    "condition",
    [
        "lines.all(a, lines.all(b, a.quantity == b.quantity))",
        "lines.all(a, !remarks.buyer_message.matches('(.*x){20}y') )",
        "lines.all(l, !(l.sku in stock.short_skus) || l.sku == 'x' || l.quantity > 0)",
    ],
)
def test_most_expensive_allowed_condition_takes_less_than_a_second(condition: str) -> None:
    sample = dict(ORDER_VOCABULARY.samples[1])
    sample["lines"] = [sample["lines"][0] | {"sku": f"S{number}"} for number in range(LONGEST_LIST)]
    sample["stock"] = {"all_available": False, "short_skus": [f"T{number}" for number in range(LONGEST_LIST)]}
    sample["remarks"] = {"buyer_message": "x" * 2000, "seller_memo": ""}
    expression = ORDER_VOCABULARY.compile(condition)
    begun = process_time()
    assert expression.evaluate(expressions.context(expression.roots, sample))
    assert process_time() - begun < 1, BUDGET


PIECES = """
    order.total lines remarks.buyer_message buyer stock.short_skus exists( all( map( filter( has( size( matches( ) ( [ ]
    . , && || ! ? : == < + - * / % l l. in true 1 1.5 9223372036854775807 'x' "( r'\\' \\ // { } null
"""
_pieces = st.sampled_from([*PIECES.split(), "\n"])


@example("has(has(has(")
@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(_pieces, max_size=30).map("".join), st.lists(_pieces).map(" ".join)))
def test_any_text_is_accepted_or_refused_without_error(text: str) -> None:
    position = None
    try:
        ORDER_VOCABULARY.check(text)
    except InvalidExpression as error:
        position = error.position
    assert position is None or 0 <= position <= len(text)


GUIDE = (Path(__file__).parents[2] / "docs" / "review.md").read_text()
EXAMPLES = re.findall(r"^\| [^|`]+ \| `(.+)` \|$", GUIDE.partition("## Examples")[2], re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES)
def test_guides_examples_are_valid_conditions(example: str) -> None:
    ORDER_VOCABULARY.check(example.replace("\\|", "|"))


def test_guides_rule_is_valid() -> None:
    assert len(EXAMPLES) > 8
    rule = ReviewRule.model_validate_json(re.findall(r"^```json\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)[0])
    ORDER_VOCABULARY.check(rule.condition)


def test_guide_names_every_fact() -> None:
    table = GUIDE.partition("| fact |")[2].partition("\n\n")[0]
    for root, fields in ORDER_VOCABULARY.samples[0].items():
        for field in fields[0] if root == "lines" else fields:
            assert re.search(rf"\b{field}\b", table), f"{root}.{field}"


def test_samples_have_the_same_facts_as_orders() -> None:
    known_facts = facts.order_facts(an_order(), {}, Rates(), AT)
    del known_facts[facts.UNCONVERTED]
    for root, fields in known_facts.items():
        for sample in ORDER_VOCABULARY.samples:
            there = sample[root]
            assert (there[0] if root == "lines" else there).keys() == (
                fields[0] if root == "lines" else fields
            ).keys(), root


def test_facts_contain_no_personal_data() -> None:
    order = an_order(buyer="account-7")
    known_facts = str(facts.order_facts(order, {}, Rates(), AT))
    person = order.recipient
    assert not [word for word in (person.name, person.phone, person.street, "account-7") if word in known_facts]


def test_rules_apply_in_order_and_only_to_their_shops() -> None:
    hold = {"do": "hold", "reason": "no"}
    order = an_order()
    other = rule(1, hold, shops=["taobao:x"])
    asleep = rule(2, hold, active=False)
    verdict = review.judge([other, asleep, rule(3, {"do": "approve"}), rule(4, hold)], order, known(order), AT)
    assert (verdict.holds, verdict.approved, [each.number for each in verdict.ruled]) == ((), True, [3, 4])
    ended = review.judge([rule(1, {"do": "reject", "reason": "no"}), rule(2, hold)], order, known(order), AT)
    assert (ended.rejected, ended.holds, len(ended.ruled)) == (True, (), 1)


def test_without_rules_limits_and_remarks_still_hold_an_order() -> None:
    order = an_order(buyer_message="先别发")
    reasons = [hold.reason for hold in review.limit_holds(order, Policy(review_above=1), Rates(), AT)]
    assert reasons == ["hold.review.amount", "hold.review.remark"]


def test_compiled_condition_is_cheap() -> None:
    expression = ORDER_VOCABULARY.check("order.total > 5000 && lines.exists(l, l.quantity > 9)")
    context = expressions.context(expression.roots, known(an_order()))
    assert isinstance(context, cel.Context)
    begun = process_time()
    for _ in range(1000):
        expression.evaluate(context)
    assert process_time() - begun < 1


DAY = date(2026, 10, 1)
amounts = st.decimals(0, 100_000, places=2)
rates_of_exchange = st.decimals(Decimal("0.01"), 500, places=2)
MONEY_RULES = (
    "order.total > {limit}",
    "order.freight + order.total >= {limit}",
    "lines.exists(l, l.net > {limit})",
    "lines.all(l, l.unit_price < {limit})",
    "amounts.mismatch < {limit}",
    "amounts.discount_rate > 0.1",
)


def judged(order: ChannelOrder, condition: str, limit: Decimal, rates: Rates) -> tuple[list[Hold], list[Hold]]:
    """Return the holds by the shop's limit, and by a rule."""
    held = rule(1, {"do": "hold", "reason": "checked"}, condition=condition.format(limit=float(limit)))
    gathered = dict(ORDER_VOCABULARY.samples[0]) | facts.order_facts(order, {}, rates, AT)
    verdict = review.judge([held], order, gathered, AT)
    return review.limit_holds(order, Policy(review_above=limit), rates, AT), list(verdict.holds)


def sold(total: Decimal, currency: str) -> ChannelOrder:
    return an_order("1", line(quantity=1, price=str(total)), total=total, currency=currency)


@given(amounts, rates_of_exchange, amounts, st.sampled_from(MONEY_RULES), st.sampled_from(["USD", "JPY", "KWD"]))
@example(Decimal(6000), Decimal("0.05"), Decimal(5000), MONEY_RULES[0], "JPY")
@example(Decimal(100), Decimal("7.1"), Decimal(710), MONEY_RULES[0], "USD")
def test_a_decision_is_the_same_for_the_same_worth_in_another_currency(
    amount: Decimal, rate: Decimal, limit: Decimal, condition: str, currency: str
) -> None:
    rates = Rates([(currency, "CNY", DAY, rate)])
    assert judged(sold(amount, currency), condition, limit, rates) == judged(
        sold(amount * rate, "CNY"), condition, limit, Rates()
    )


@given(amounts.filter(bool), amounts, st.sampled_from(MONEY_RULES[:4]))
def test_an_amount_without_a_rate_holds_the_order_and_names_the_currency(
    amount: Decimal, limit: Decimal, condition: str
) -> None:
    later = Rates([("JPY", "CNY", date(2026, 12, 1), Decimal(1)), ("USD", "CNY", DAY, Decimal(7))])
    for holds in judged(sold(amount, "JPY"), condition, limit, later):
        assert [(each.reason, each.params["currency"]) for each in holds] == [("hold.review.no_rate", "JPY")]


def test_a_rule_that_names_no_amount_needs_no_rate() -> None:
    _, holds = judged(sold(Decimal(6000), "JPY"), "order.quantity > {limit}", Decimal(5000), Rates())
    assert holds == []


def test_list_prices_compare_across_currencies() -> None:
    order, rates = sold(Decimal(10), "USD"), Rates([("USD", "CNY", DAY, Decimal(7))])
    prices = {"A001": (Decimal(140), "CNY")}
    assert facts.order_facts(order, prices, rates, AT)["amounts"]["below_list"] == 0.5
    missing = facts.order_facts(order, prices, Rates(), AT)
    assert facts.unconverted(missing, ["amounts.below_list"]) == "USD"
    assert facts.unconverted(missing, ["lines.sku"]) is None


def test_the_newest_rate_of_the_day_applies_in_either_direction() -> None:
    back = ("CNY", "USD", date(2026, 10, 20), Decimal("0.125"))
    rates = Rates([("USD", "CNY", DAY, Decimal(7)), back, ("USD", "CNY", date(2026, 11, 20), Decimal(9))])
    ten = Money(amount=Decimal(10), currency="USD")
    assert [rates.convert(ten, "CNY", datetime(2026, month, day, tzinfo=UTC)) for month, day in ((10, 5), (11, 1))] == [
        Decimal(70),
        Decimal(80),
    ]
    with pytest.raises(NoRate, match="USD to CNY"):
        rates.convert(ten, "CNY", datetime(2026, 9, 1, tzinfo=UTC))

"""Choosing a carrier: hard limits, cost with faults, and reasons."""

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.fulfillment.carrier_selection.rules import PARCELS, evaluate
from activities.kit.expressions import InvalidExpression
from models.allocation import Rate
from models.carrier_selection import (
    Candidate,
    CarrierRule,
    CarrierTerms,
    Say,
    Service,
    ShippingRequest,
    Weights,
    choose,
)

NOW = datetime(2026, 11, 11, 2, tzinfo=UTC)  # ten in the morning in China


def candidate(carrier: str, price: str | None = "10", days: int = 2, **more: Any) -> Candidate:
    terms = CarrierTerms(carrier=carrier, **more.pop("terms", {}))
    rate = None if price is None else Rate(carrier=carrier, first_price=Decimal(price), days=days)
    return Candidate(terms=terms, rate=rate, **more)


def parcel(**facts: Any) -> ShippingRequest:
    return ShippingRequest(**{"origin": "上海市", "destination": "浙江省", "usual": "sf", **facts})


def order(parcel: ShippingRequest, *candidates: Candidate, weights: Weights | None = None) -> list[str]:
    made = choose(parcel, list(candidates), Say(weights=weights or Weights()), NOW)
    return [each.carrier for each in made.options if each.open]


def test_the_cheapest_is_taken_and_the_usual_one_among_equals() -> None:
    assert order(parcel(), candidate("sf", "12"), candidate("yto", "8")) == ["yto", "sf"]
    assert order(parcel(), candidate("sf"), candidate("aa")) == ["sf", "aa"]


@pytest.mark.parametrize(
    ("terms", "facts", "reason"),
    [
        ({"active": False}, {}, "choice.closed"),
        ({"areas": ["江苏"]}, {}, "choice.area"),
        ({"abilities": []}, {"needs": {"cold_chain"}}, "choice.unable"),
        ({"max_kg": "5"}, {"weight_kg": Decimal(6)}, "choice.heavy"),
        ({"max_cm3": 1000}, {"volume_cm3": 1001}, "choice.large"),
        ({"cash_on_delivery": False}, {"cash_on_delivery": True}, "choice.cash"),
        ({"insured_up_to": "100"}, {"value": Decimal(101)}, "choice.value"),
        ({"capacity": 3}, {}, "choice.full"),
        ({}, {"demanded": "sf"}, "choice.not_demanded"),
    ],
)
def test_what_a_carrier_cannot_take_it_is_not_given_and_why(
    terms: dict[str, Any], facts: dict[str, Any], reason: str
) -> None:
    cheap = candidate("yto", "1", terms=terms, booked=3)
    made = choose(parcel(**facts), [candidate("sf", "50"), cheap], Say(), NOW)
    assert made.carrier == "sf"
    assert [(each.carrier, each.reason) for each in made.options if not each.open] == [("yto", reason)]


def test_a_promise_is_worth_more_than_a_little_freight() -> None:
    promised = parcel(promised_by=NOW + timedelta(days=1))
    assert order(promised, candidate("slow", "8", 3), candidate("sf", "20", 1)) == ["sf", "slow"]
    late = candidate("sf", "20", 1, terms={"cutoff": time(9)})
    assert order(promised, candidate("slow", "8", 3), late) == ["slow", "sf"]


def test_urgent_orders_go_the_fast_way() -> None:
    ways = candidate("slow", "8", 3), candidate("sf", "20", 1)
    assert order(parcel(), *ways) == ["slow", "sf"]
    assert order(parcel(urgent=True), *ways) == ["sf", "slow"]


def test_who_loses_parcels_on_a_lane_is_dear_there() -> None:
    bad = candidate("yto", "8", service=Service(parcels=190, lost=20))
    assert order(parcel(), bad, candidate("sf", "12")) == ["sf", "yto"]
    few = candidate("yto", "8", service=Service(parcels=1, late=1))
    assert order(parcel(), few, candidate("sf", "12")) == ["yto", "sf"]


def test_its_own_price_stands_before_its_table_and_no_price_last() -> None:
    asked = candidate("sf", "50").model_copy(update={"price": Decimal(5)})
    unknown = candidate("aa", None)
    assert order(parcel(), unknown, candidate("yto", "8"), asked) == ["sf", "yto", "aa"]


def test_who_refused_is_not_asked_again() -> None:
    made = choose(parcel(), [candidate("sf", "9"), candidate("yto", "8")], Say(), NOW)
    after = made.without("yto", "S0002")
    assert (made.carrier, after.carrier, after.without("sf", "1").carrier) == ("yto", "sf", None)
    assert after.options[0].params == {"code": "S0002"}


@given(
    st.lists(
        st.tuples(st.decimals(1, 99, places=2), st.integers(0, 9), st.integers(0, 99), st.booleans()),
        min_size=1,
        max_size=6,
    )
)
def test_nobody_open_scores_better_than_the_one_chosen(ways: list[tuple[Decimal, int, int, bool]]) -> None:
    candidates = [
        candidate(f"c{n}", str(price), days, service=Service(parcels=100, late=late), terms={"active": active})
        for n, (price, days, late, active) in enumerate(ways)
    ]
    made = choose(parcel(), candidates, Say(), NOW)
    scores = {each.carrier: each.score for each in made.options if each.open}
    assert made.carrier == min(scores, key=lambda name: (scores[name] or Decimal(0), name), default=None)
    assert {each.carrier for each in made.options} == {each.terms.carrier for each in candidates}


def say(facts: ShippingRequest, *rules: CarrierRule, weights: Weights | None = None) -> Say:
    return evaluate(rules, facts, {"sf", "yto", "sto"}, weights or Weights(), NOW)


def rule(number: int, condition: str, *decisions: dict[str, Any], **more: Any) -> CarrierRule:
    told = {"number": number, "name": f"rule {number}", "condition": condition, "decisions": decisions, **more}
    return CarrierRule.model_validate(told)


def test_rules_exclude_restrict_and_favour_and_say_so() -> None:
    far = parcel(destination="西藏", channel="own", shop="web")
    ways = [candidate("sf", "20"), candidate("yto", "8"), candidate("sto", "6")]
    excluded = rule(1, "parcel.destination.startsWith('西藏')", {"do": "exclude", "carriers": ["sto"]})
    made = choose(far, ways, say(far, excluded), NOW)
    assert [each.carrier for each in made.options if each.open] == ["yto", "sf"]
    assert (made.options[-1].reason, made.options[-1].params) == ("choice.excluded", {"rule": "rule 1"})
    assert made.ruled[0].values == {"parcel.destination": "西藏"}
    only = rule(2, "true", {"do": "only", "carriers": ["sf"]})
    assert choose(far, ways, say(far, only), NOW).carrier == "sf"
    favoured = rule(3, "parcel.quantity == 0", {"do": "favour", "carriers": ["sf"], "by": "12.5"})
    assert choose(far, ways, say(far, excluded, favoured), NOW).carrier == "sf"
    twice = say(far, favoured, favoured.model_copy(update={"number": 4}))
    assert twice.favours == {"sf": Decimal(25)}


def test_a_rule_changes_what_faults_count() -> None:
    ways = [candidate("slow", "8", 3), candidate("sf", "20", 1)]
    hurried = rule(1, "'vip' in parcel.tags", {"do": "weigh", "weights": {"day": 10}})
    assert choose(parcel(tags=("vip",)), ways, say(parcel(tags=("vip",)), hurried), NOW).carrier == "sf"
    assert choose(parcel(), ways, say(parcel(), hurried), NOW).carrier == "slow"


def test_rules_of_other_shops_or_asleep_say_nothing_and_one_that_fails_says_why() -> None:
    out = {"do": "exclude", "carriers": ["sf"]}
    here = parcel(channel="own", shop="web")
    assert say(here, rule(1, "true", out, shops=["taobao:x"]), rule(2, "true", out, active=False)) == Say()
    failing = say(here, rule(3, "1 / parcel.quantity > 0", out))
    assert (failing.excluded, bool(failing.ruled[0].failure)) == ({}, True)


@pytest.mark.parametrize("condition", ["order.total > 1.0", "parcel.nothing", "parcel.weight_kg", "true &&"])
def test_what_is_no_condition_of_a_parcel_is_refused(condition: str) -> None:
    with pytest.raises(InvalidExpression):
        PARCELS.check(condition)


def test_everything_a_rule_may_look_at_stands_in_the_guide() -> None:
    guide = (Path(__file__).parents[2] / "docs/carriers.md").read_text()
    facts = PARCELS.samples[0]["parcel"]
    missing = [each for each in facts if f"`.{each}`" not in guide and f"parcel.{each}" not in guide]
    assert not missing

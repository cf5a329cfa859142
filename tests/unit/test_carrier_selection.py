"""Carrier selection: hard limits, prices with penalties, rules and reasons."""

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.fulfillment.carrier_selection.rules import VOCABULARY, evaluate
from activities.kit.expressions import InvalidExpression
from models.allocation import Rate
from models.carrier_selection import (
    Candidate,
    CarrierRule,
    CarrierTerms,
    LanePerformance,
    RuleOutcome,
    ShippingRequest,
    Weights,
    rank_carriers,
)

NOW = datetime(2026, 11, 11, 2, tzinfo=UTC)  # ten in the morning in China


def candidate(carrier: str, price: str | None = "10", days: int = 2, **more: Any) -> Candidate:
    terms = CarrierTerms(carrier=carrier, **more.pop("terms", {}))
    rate = None if price is None else Rate(carrier=carrier, first_price=Decimal(price), days=days)
    return Candidate(terms=terms, rate=rate, **more)


def request(**facts: Any) -> ShippingRequest:
    return ShippingRequest(**{"origin": "上海市", "destination": "浙江省", "default_carrier": "sf", **facts})


def ranking(request: ShippingRequest, *candidates: Candidate, weights: Weights | None = None) -> list[str]:
    choice = rank_carriers(request, list(candidates), RuleOutcome(weights=weights or Weights()), NOW)
    return [each.carrier for each in choice.options if each.open]


def test_cheapest_carrier_is_chosen_and_the_default_breaks_ties() -> None:
    assert ranking(request(), candidate("sf", "12"), candidate("yto", "8")) == ["yto", "sf"]
    assert ranking(request(), candidate("sf"), candidate("aa")) == ["sf", "aa"]


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
        ({"insured_up_to": "100"}, {"no_rate": "JPY"}, "choice.no_rate"),
        ({"capacity": 3}, {}, "choice.full"),
        ({}, {"required_carrier": "sf"}, "choice.not_demanded"),
    ],
)
def test_carrier_is_ruled_out_with_its_reason(terms: dict[str, Any], facts: dict[str, Any], reason: str) -> None:
    cheap = candidate("yto", "1", terms=terms, booked=3)
    choice = rank_carriers(request(**facts), [candidate("sf", "50"), cheap], RuleOutcome(), NOW)
    assert choice.carrier == "sf"
    assert [(each.carrier, each.reason) for each in choice.options if not each.open] == [("yto", reason)]


def test_late_delivery_outweighs_saved_freight() -> None:
    promised = request(promised_by=NOW + timedelta(days=1))
    assert ranking(promised, candidate("slow", "8", 3), candidate("sf", "20", 1)) == ["sf", "slow"]
    late = candidate("sf", "20", 1, terms={"cutoff": time(9)})
    assert ranking(promised, candidate("slow", "8", 3), late) == ["slow", "sf"]


def test_urgent_orders_prefer_the_fast_carrier() -> None:
    candidates = candidate("slow", "8", 3), candidate("sf", "20", 1)
    assert ranking(request(), *candidates) == ["slow", "sf"]
    assert ranking(request(urgent=True), *candidates) == ["sf", "slow"]


def test_losses_on_a_lane_are_penalised() -> None:
    bad = candidate("yto", "8", performance=LanePerformance(parcels=190, lost=20))
    assert ranking(request(), bad, candidate("sf", "12")) == ["sf", "yto"]
    few = candidate("yto", "8", performance=LanePerformance(parcels=1, late=1))
    assert ranking(request(), few, candidate("sf", "12")) == ["yto", "sf"]


def test_quote_precedes_the_rate_table_and_unpriced_carriers_come_last() -> None:
    quoted = candidate("sf", "50").model_copy(update={"price": Decimal(5)})
    unpriced = candidate("aa", None)
    assert ranking(request(), unpriced, candidate("yto", "8"), quoted) == ["sf", "yto", "aa"]


def test_carrier_that_refused_is_closed() -> None:
    choice = rank_carriers(request(), [candidate("sf", "9"), candidate("yto", "8")], RuleOutcome(), NOW)
    after = choice.without("yto", "S0002")
    assert (choice.carrier, after.carrier, after.without("sf", "1").carrier) == ("yto", "sf", None)
    assert after.options[0].params == {"code": "S0002"}


@given(
    st.lists(
        st.tuples(st.decimals(1, 99, places=2), st.integers(0, 9), st.integers(0, 99), st.booleans()),
        min_size=1,
        max_size=6,
    )
)
def test_no_open_carrier_scores_better_than_the_chosen_one(facts: list[tuple[Decimal, int, int, bool]]) -> None:
    candidates = [
        candidate(
            f"c{n}", str(price), days, performance=LanePerformance(parcels=100, late=late), terms={"active": active}
        )
        for n, (price, days, late, active) in enumerate(facts)
    ]
    choice = rank_carriers(request(), candidates, RuleOutcome(), NOW)
    scores = {each.carrier: each.score for each in choice.options if each.open}
    assert choice.carrier == min(scores, key=lambda name: (scores[name] or Decimal(0), name), default=None)
    assert {each.carrier for each in choice.options} == {each.terms.carrier for each in candidates}


def outcome(facts: ShippingRequest, *rules: CarrierRule, weights: Weights | None = None) -> RuleOutcome:
    return evaluate(rules, facts, {"sf", "yto", "sto"}, weights or Weights(), NOW)


def rule(number: int, condition: str, *decisions: dict[str, Any], **more: Any) -> CarrierRule:
    fields = {"number": number, "name": f"rule {number}", "condition": condition, "decisions": decisions, **more}
    return CarrierRule.model_validate(fields)


def test_rules_exclude_restrict_and_favour_carriers_with_results() -> None:
    far = request(destination="西藏", channel="own", shop="web")
    candidates = [candidate("sf", "20"), candidate("yto", "8"), candidate("sto", "6")]
    excluded = rule(1, "parcel.destination.startsWith('西藏')", {"do": "exclude", "carriers": ["sto"]})
    choice = rank_carriers(far, candidates, outcome(far, excluded), NOW)
    assert [each.carrier for each in choice.options if each.open] == ["yto", "sf"]
    assert (choice.options[-1].reason, choice.options[-1].params) == ("choice.excluded", {"rule": "rule 1"})
    assert choice.ruled[0].values == {"parcel.destination": "西藏"}
    only = rule(2, "true", {"do": "only", "carriers": ["sf"]})
    assert rank_carriers(far, candidates, outcome(far, only), NOW).carrier == "sf"
    favoured = rule(3, "parcel.quantity == 0", {"do": "favour", "carriers": ["sf"], "by": "12.5"})
    assert rank_carriers(far, candidates, outcome(far, excluded, favoured), NOW).carrier == "sf"
    twice = outcome(far, favoured, favoured.model_copy(update={"number": 4}))
    assert twice.bonuses == {"sf": Decimal(25)}


def test_rule_overrides_the_weights() -> None:
    candidates = [candidate("slow", "8", 3), candidate("sf", "20", 1)]
    prefer_fast = rule(1, "'vip' in parcel.tags", {"do": "weigh", "weights": {"day": 10}})
    assert (
        rank_carriers(request(tags=("vip",)), candidates, outcome(request(tags=("vip",)), prefer_fast), NOW).carrier
        == "sf"
    )
    assert rank_carriers(request(), candidates, outcome(request(), prefer_fast), NOW).carrier == "slow"


def test_only_active_rules_of_the_shop_apply_and_failures_are_reported() -> None:
    exclude_sf = {"do": "exclude", "carriers": ["sf"]}
    here = request(channel="own", shop="web")
    assert (
        outcome(here, rule(1, "true", exclude_sf, shops=["taobao:x"]), rule(2, "true", exclude_sf, active=False))
        == RuleOutcome()
    )
    failing = outcome(here, rule(3, "1 / parcel.quantity > 0", exclude_sf))
    assert (failing.excluded, bool(failing.results[0].failure)) == ({}, True)


@pytest.mark.parametrize("condition", ["order.total > 1.0", "parcel.nothing", "parcel.weight_kg", "true &&"])
def test_invalid_conditions_are_refused(condition: str) -> None:
    with pytest.raises(InvalidExpression):
        VOCABULARY.check(condition)


def test_guide_names_every_fact() -> None:
    guide = (Path(__file__).parents[2] / "docs/carriers.md").read_text()
    facts = VOCABULARY.samples[0]["parcel"]
    missing = [each for each in facts if f"`.{each}`" not in guide and f"parcel.{each}" not in guide]
    assert not missing

"""Planning: hard limits, routing rules, every order of criteria, and optimality of the plan."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from activities.allocation import rules
from activities.allocation.planning import Problem, plan
from models.allocation import (
    Action,
    Ask,
    Condition,
    Criterion,
    Exclude,
    Facts,
    Item,
    Objective,
    Plan,
    Prefer,
    Queue,
    Rate,
    Rule,
    Site,
    Split,
    freight,
)
from models.fulfillment import FulfillmentLine
from models.i18n import t

NOW = datetime(2026, 3, 2, 6, tzinfo=UTC)
"""14:00 in China."""
SH = Site(code="SH", province="上海市", rank=10)
GZ = Site(code="GZ", province="广东省", rank=20)
BJ = Site(code="BJ", province="北京市", rank=30)
TO_SHANGHAI = Facts(province="上海", shop="main", channel="own")


def lines_of(**quantities: int) -> list[FulfillmentLine]:
    return [
        FulfillmentLine(line_no=str(number), sku=sku, quantity=quantity)
        for number, (sku, quantity) in enumerate(quantities.items(), 1)
    ]


def planned(*sites: Site, quantities: dict[str, int] | None = None, **more: Any) -> Plan:
    """Plan one A1 to Shanghai, of which every site has nine, unless given otherwise."""
    quantities = quantities or {"A1": 1}
    stock = more.pop("stock", {site.code: dict.fromkeys(quantities, 9) for site in sites})
    return plan(
        Problem(**{"order": TO_SHANGHAI, "now": NOW} | more, lines=lines_of(**quantities), stock=stock, sites=sites)
    )


def sends(result: Plan) -> dict[str, dict[str, int]]:
    return {load.warehouse: {line.sku: line.quantity for line in load.lines} for load in result.loads}


def reason_text(result: Plan, code: str) -> str:
    """Return the reason that staff see for a site."""
    candidate = next(each for each in result.candidates if each.warehouse == code)
    return t(candidate.reason, "en", **candidate.params)


def measured(result: Plan) -> dict[str, Decimal]:
    return {each.criterion: each.value for each in result.measures}


# Freight


SF = Rate(
    carrier="sf", first_price=Decimal(12), further_price=Decimal("2.5"), volume_divisor=6000, surcharge=Decimal("0.3")
)


@pytest.mark.parametrize(
    ("kg", "cm3", "price"),
    [
        ("0.2", 0, "12.3"),
        ("1", 6000, "12.3"),
        ("1.001", 0, "14.8"),
        ("2", 0, "14.8"),
        ("3.2", 0, "19.8"),
        ("0.2", 6001, "14.8"),
        ("1", 30_000, "22.3"),
    ],
)
def test_freight_charges_the_first_and_each_further_kilogram_begun(kg: str, cm3: int, price: str) -> None:
    assert freight([SF], "上海市", "北京市", Decimal(kg), cm3) == ("sf", Decimal(price), 0)


def test_freight_in_steps_of_half_a_kilogram() -> None:
    rate = Rate(
        carrier="yto",
        first_kg=Decimal("0.5"),
        first_price=Decimal(4),
        further_kg=Decimal("0.5"),
        further_price=Decimal(1),
    )
    assert freight([rate], "", "", Decimal("1.6"), 0) == ("yto", Decimal(7), 0)


def test_most_specific_rate_then_cheapest_carrier_is_used() -> None:
    rates = [
        Rate(carrier="sf", first_price=Decimal(5)),
        Rate(carrier="sf", destination="新疆", first_price=Decimal(30), days=4),
        Rate(carrier="sf", origin="上海", destination="新疆维吾尔自治区", first_price=Decimal(25), days=3),
        Rate(carrier="yto", destination="新疆", first_price=Decimal(26), days=6),
        Rate(carrier="zto", destination="北京", first_price=Decimal(1)),
    ]
    assert freight(rates, "上海市", "新疆维吾尔自治区", Decimal(1)) == ("sf", Decimal(25), 3)
    assert freight(rates, "广东省", "新疆维吾尔自治区", Decimal(1)) == ("yto", Decimal(26), 6)
    assert freight(rates[4:], "上海市", "广东省", Decimal(1)) is None


# Hard limits


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"closed": True}, "Closed"),
        ({"areas": ("广东省", "广西")}, "Does not deliver to 上海"),
        ({"capacity": 0}, "Can take no more orders today"),
        ({"abilities": {"dangerous_goods"}}, "Not able to send what needs cold_chain"),
        ({"max_kg": Decimal("1.9")}, "Cannot send pieces as heavy as A1"),
    ],
)
def test_hard_limit_excludes_a_site(limits: dict[str, Any], why: str) -> None:
    items = {"A1": Item(weight_kg=Decimal(2), needs=("cold_chain",))}
    able = {"abilities": frozenset({"cold_chain"}), "max_kg": Decimal(2), "areas": ("上海市",), "capacity": 1}
    near = SH.model_copy(update=able | limits)
    far = BJ.model_copy(update=able)
    assert sends(planned(SH.model_copy(update=able), far, items=items)) == {"SH": {"A1": 1}}
    result = planned(near, far, items=items)
    assert sends(result) == {"BJ": {"A1": 1}}
    assert reason_text(result, "SH") == why
    assert result.candidates[0].offer is None


def test_site_without_a_carrier_ships_nothing() -> None:
    rates = [Rate(carrier="sf", origin="北京", first_price=Decimal(9))]
    result = planned(SH, BJ, rates=rates)
    assert sends(result) == {"BJ": {"A1": 1}}
    assert reason_text(result, "SH") == "No carrier goes from it to 上海"


def test_demanded_carrier_is_used() -> None:
    rates = [
        Rate(carrier="yto", first_price=Decimal(3)),
        Rate(carrier="sf", origin="上海", first_price=Decimal(20)),
        Rate(carrier="sf", origin="北京", first_price=Decimal(15)),
    ]
    result = planned(SH, BJ, rates=rates, order=TO_SHANGHAI.model_copy(update={"carrier": "sf"}))
    (offer,) = (each.offer for each in result.candidates if each.chosen)
    assert offer is not None
    assert (offer.carrier, offer.freight) == ("sf", Decimal(15))


def test_sku_that_a_site_cannot_handle_ships_from_another() -> None:
    items = {"ICE": Item(needs=("cold_chain",))}
    result = planned(
        SH, BJ.model_copy(update={"abilities": {"cold_chain"}}), items=items, quantities={"ICE": 1, "A1": 1}
    )
    assert sends(result) == {"BJ": {"ICE": 1, "A1": 1}}
    stock = {"SH": {"ICE": 9, "A1": 1}, "BJ": {"ICE": 9}}
    cold = BJ.model_copy(update={"abilities": {"cold_chain"}})
    assert sends(planned(SH, cold, items=items, quantities={"ICE": 1, "A1": 1}, stock=stock)) == {
        "SH": {"A1": 1},
        "BJ": {"ICE": 1},
    }


@pytest.mark.parametrize(
    ("held", "limits", "blocked"),
    [
        ({"SH": 2}, {"closed": True}, "There is enough, but no site that has it may send it"),
        ({"SH": 1, "BJ": 1}, {"areas": ("广东省",)}, "There is enough, but no site that has it may send it"),
        ({"SH": 1}, {"closed": True}, None),
        ({"SH": 1}, {}, None),
        ({"SH": 2, "BJ": 2}, {"closed": True}, None),
    ],
)
def test_shortage_by_limits_differs_from_missing_stock(
    held: dict[str, int], limits: dict[str, Any], blocked: str | None
) -> None:
    stock = {code: {"A1": quantity} for code, quantity in held.items()}
    result = planned(SH.model_copy(update=limits), BJ, quantities={"A1": 2}, stock=stock)
    assert (t(result.blocked, "en") if result.blocked else None) == blocked


# Rules


def rule(action: Action, *condition: Condition, **more: Any) -> Rule:
    return Rule(**{"number": 1, "name": "mine", "action": action, "condition": condition} | more)


def test_rule_excludes_a_location_and_is_named() -> None:
    result = planned(SH, BJ, rules=[rule(Exclude(locations=("SH",)))])
    assert sends(result) == {"BJ": {"A1": 1}}
    assert reason_text(result, "SH") == "Excluded by the rule mine"
    assert [(each.number, each.name) for each in result.rules] == [(1, "mine")]


def test_preferred_location_precedes_every_criterion() -> None:
    result = planned(SH, BJ, rules=[rule(Prefer(locations=("BJ",)))])
    assert sends(result) == {"BJ": {"A1": 1}}
    assert reason_text(result, "SH") == "Has everything, but another location ranks first: a rule prefers others"


def test_rule_forbids_a_split() -> None:
    stock = {"SH": {"A1": 9, "B1": 1}, "BJ": {"B1": 9}}
    quantities = {"A1": 2, "B1": 2}
    assert set(sends(planned(SH, BJ, quantities=quantities, stock=stock))) == {"SH", "BJ"}
    never = planned(SH, BJ, quantities=quantities, stock=stock, allow_partial=True, rules=[rule(Split(split="never"))])
    assert not never.loads
    assert [(each.sku, each.quantity) for each in never.shortages] == [("B1", 1)]
    assert t(never.blocked or "", "en") == "There is enough, but no one site has it all, and it must not be split"


def test_rules_allow_or_forbid_partial_plans() -> None:
    short: dict[str, Any] = {"quantities": {"A1": 2, "B1": 2}, "stock": {"SH": {"A1": 9}}}
    result = planned(SH, **short, rules=[rule(Split(split="in_part"))])
    assert result.in_part
    assert sends(result) == {"SH": {"A1": 2}}
    result = planned(SH, **short, allow_partial=True, rules=[rule(Split(split="allow"))])
    assert not result.in_part
    assert not result.loads


def test_rules_set_the_queue_and_ask_for_approval() -> None:
    result = planned(SH, rules=[rule(Queue(name="gifts")), rule(Ask(reason="engraving"), number=2)])
    assert (result.queue, result.ask) == ("gifts", "engraving")
    assert sends(result) == {"SH": {"A1": 1}}


def test_later_rules_override_earlier_ones() -> None:
    rules = [rule(Queue(name="second"), number=2), rule(Queue(name="first"), number=1)]
    result = planned(SH, rules=rules)
    assert result.queue == "second"
    assert [each.number for each in result.rules] == [1, 2]


@pytest.mark.parametrize(
    ("more", "applies"),
    [
        ({}, True),
        ({"active": False}, False),
        ({"shops": ("main", "other")}, True),
        ({"shops": ("other",)}, False),
        ({"campaigns": ("double11",)}, True),
        ({"campaigns": ("618",)}, False),
    ],
)
def test_rule_scope(more: dict[str, Any], applies: bool) -> None:
    order = TO_SHANGHAI.model_copy(update={"campaign": "double11"})
    assert (planned(SH, order=order, rules=[rule(Queue(name="q"), **more)]).queue == "q") is applies


@pytest.mark.parametrize(
    ("field", "op", "value", "applies"),
    [
        ("channel", "eq", "own", True),
        ("channel", "ne", "own", False),
        ("shop", "in", ["main", "other"], True),
        ("shop", "not_in", ["main", "other"], False),
        ("province", "eq", "上海市", True),
        ("province", "in", ["江苏省", "浙江省"], False),
        ("city", "eq", "上海市", True),
        ("campaign", "eq", "618", False),
        ("total", "gte", "99.50", True),
        ("total", "lte", 99, False),
        ("priority", "lte", 3, True),
        ("weight_kg", "gte", 2.5, True),
        ("weight_kg", "gte", 2.6, False),
        ("lines", "eq", 2, True),
        ("quantity", "eq", 3, True),
        ("placed_hour", "in", [14, 15], True),
        ("placed_hour", "lte", 6, False),
        ("any_sku", "eq", "A1", True),
        ("sku", "eq", "A1", False),
        ("sku", "in", ["A1", "B1"], True),
        ("any_sku", "in", ["C1"], False),
    ],
)
def test_rule_condition(field: Any, op: Any, value: Any, applies: bool) -> None:
    order = TO_SHANGHAI.model_copy(update={"city": "上海市", "total": Decimal("99.50"), "placed_at": NOW})
    condition = Condition(field=field, op=op, value=value)
    result = planned(
        SH,
        quantities={"A1": 1, "B1": 2},
        order=order,
        items={"A1": Item(weight_kg=Decimal("0.5")), "B1": Item(weight_kg=Decimal(1))},
        rules=[rule(Queue(name="q"), Condition(field="channel", op="eq", value="own"), condition)],
    )
    assert (result.queue == "q") is applies
    assert Condition.model_validate_json(condition.model_dump_json()) == condition


@pytest.mark.parametrize(
    ("field", "op", "value"),
    [
        ("total", "eq", "much"),
        ("total", "eq", [1]),
        ("shop", "in", "main"),
        ("shop", "gte", "main"),
        ("phone", "eq", "1"),
        ("total", "like", 1),
    ],
)
def test_meaningless_condition_is_refused(field: Any, op: Any, value: Any) -> None:
    with pytest.raises(ValidationError):
        Condition(field=field, op=op, value=value)


# The objective


@pytest.mark.parametrize(
    ("first", "chosen"),
    [
        ("on_time", {"BJ": {"A1": 1, "B1": 1}}),
        ("fewest_parcels", {"GZ": {"A1": 1, "B1": 1}}),
        ("lowest_cost", {"SH": {"A1": 1}, "S2": {"B1": 1}}),
        ("nearest", {"SH": {"A1": 1}, "S2": {"B1": 1}}),
        ("balance", {"HB": {"A1": 1, "B1": 1}}),
    ],
)
def test_first_criterion_decides(first: Criterion, chosen: dict[str, dict[str, int]]) -> None:
    """Each of five plans is the best by one criterion; only two small shops are both cheap and near."""
    second: tuple[Criterion, ...] = ("lowest_cost",) if first != "lowest_cost" else ()
    slow = {"lead_days": 3}
    sites = [
        SH.model_copy(update=slow | {"handling": Decimal(1)}),
        SH.model_copy(update=slow | {"code": "S2", "handling": Decimal(1)}),
        GZ.model_copy(update=slow | {"handling": Decimal(5)}),
        BJ.model_copy(update={"handling": Decimal(50)}),
        Site(code="HB", province="湖北省", handling=Decimal(9), lead_days=3),
    ]
    stock = {
        "SH": {"A1": 1},
        "S2": {"B1": 1},
        "GZ": {"A1": 1, "B1": 1},
        "BJ": {"A1": 1, "B1": 1},
        "HB": {"A1": 90, "B1": 90},
    }
    result = planned(
        *sites,
        quantities={"A1": 1, "B1": 1},
        stock=stock,
        order=TO_SHANGHAI.model_copy(update={"promised_by": NOW + timedelta(days=1)}),
        objective=Objective(criteria=(first, *second)),
    )
    assert sends(result) == chosen
    assert result.exact


def test_orders_after_the_cutoff_leave_a_day_later() -> None:
    rates = [Rate(carrier="sf", first_price=Decimal(9), days=1)]
    order = TO_SHANGHAI.model_copy(update={"promised_by": NOW + timedelta(days=1)})
    early, late = (SH.model_copy(update={"cutoff": time(hour)}) for hour in (15, 13))
    assert sends(planned(early, BJ, rates=rates, order=order)) == {"SH": {"A1": 1}}
    result = planned(late, BJ, rates=rates, order=order)
    assert sends(result) == {"BJ": {"A1": 1}}
    reason = "Has everything, but another location ranks first: it would miss the promised day"
    assert reason_text(result, "SH") == reason
    offers = {each.warehouse: each.offer for each in result.candidates}
    assert offers["SH"] is not None
    assert (offers["SH"].days, offers["SH"].late) == (2, True)


def test_dearer_carrier_is_used_if_only_it_is_on_time() -> None:
    rates = [
        Rate(carrier="yto", first_price=Decimal(5), days=4),
        Rate(carrier="sf", first_price=Decimal(18), days=1),
    ]
    order = TO_SHANGHAI.model_copy(update={"promised_by": NOW + timedelta(days=2)})
    for criteria, carrier, late, cost in (
        (("on_time", "lowest_cost"), "sf", 0, 18),
        (("lowest_cost", "on_time"), "yto", 1, 5),
    ):
        result = planned(SH, rates=rates, order=order, objective=Objective(criteria=criteria))
        (candidate,) = result.candidates
        assert candidate.offer is not None
        assert candidate.offer.carrier == carrier
        assert measured(result) == {"on_time": late, "lowest_cost": cost}


def test_split_cost_depends_on_who_ships_the_heavy_line() -> None:
    """B1 from Beijing begins a second kilogram at 9; from Shanghai, at 2."""
    rates = [
        Rate(carrier="sf", origin="上海", first_price=Decimal(10), further_price=Decimal(2)),
        Rate(carrier="sf", origin="北京", first_price=Decimal(10), further_price=Decimal(9)),
    ]
    stock = {"SH": {"A1": 1, "B1": 1}, "BJ": {"C1": 1, "B1": 9}}
    result = planned(
        SH,
        BJ,
        quantities={"A1": 1, "B1": 1, "C1": 1},
        stock=stock,
        rates=rates,
        items={sku: Item(weight_kg=Decimal("0.8")) for sku in ("A1", "B1", "C1")},
    )
    assert sends(result) == {"SH": {"A1": 1, "B1": 1}, "BJ": {"C1": 1}}
    assert measured(result)["lowest_cost"] == 22


def test_rank_then_code_decide_between_equal_sites() -> None:
    twins = [Site(code=code, province="上海市", rank=rank) for code, rank in (("Y", 2), ("Z", 1), ("X", 1))]
    assert list(sends(planned(*twins))) == ["X"]
    assert reason_text(planned(*twins), "Y") == "Has everything, but another location ranks first: its rank"


def test_duplicate_criterion_is_refused() -> None:
    with pytest.raises(ValidationError):
        Objective(criteria=("nearest", "nearest"))


# Properties


SKUS = ("A1", "B1", "C1")
AMOUNTS = st.dictionaries(st.sampled_from(SKUS), st.integers(-2, 6))
ANY_OBJECTIVE = st.permutations(Objective().criteria).flatmap(
    lambda criteria: st.integers(0, len(criteria)).map(lambda length: Objective(criteria=tuple(criteria[:length])))
)


@given(
    st.dictionaries(st.sampled_from(SKUS), st.integers(1, 6), min_size=1),
    st.lists(AMOUNTS, min_size=1, max_size=4),
    st.sets(st.integers(0, 3)),
    st.sets(st.integers(0, 3)),
    ANY_OBJECTIVE,
    st.booleans(),
)
def test_any_plan(
    quantities: dict[str, int],
    held: Sequence[dict[str, int]],
    closed: set[int],
    excluded: set[int],
    objective: Objective,
    in_part: bool,
) -> None:
    sites = [
        Site(code=f"S{number}", province=SH.province, handling=Decimal(number), closed=number in closed)
        for number in range(len(held))
    ]
    stock = {site.code: amounts for site, amounts in zip(sites, held, strict=True)}
    rules = [rule(Exclude(locations=tuple(f"S{number}" for number in excluded)))]
    problem: dict[str, Any] = {"stock": stock, "rules": rules, "objective": objective, "allow_partial": in_part}
    result = planned(*sites, quantities=quantities, **problem)
    useful = {f"S{number}" for number in range(len(held)) if number not in closed | excluded}
    sent: Counter[str] = Counter()
    for code, share in sends(result).items():
        assert code in useful
        assert all(0 < quantity <= stock[code].get(sku, 0) for sku, quantity in share.items())
        sent.update(share)
    there = {sku: sum(max(0, stock[code].get(sku, 0)) for code in useful) for sku in quantities}
    missing = Counter(quantities) - Counter(there)
    assert {each.sku: each.quantity for each in result.shortages} == missing
    assert sent == (Counter(quantities) - missing if in_part or not missing else Counter())
    assert result.exact
    assert planned(*reversed(sites), quantities=quantities, **problem).loads == result.loads
    assert Plan.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize(("total", "asked"), [(Decimal(300), None), (None, "no rate")])
def test_a_rule_that_needs_a_total_without_a_rate_asks_a_person(total: Decimal | None, asked: str | None) -> None:
    condition = [{"field": "total", "op": "gte", "value": 5000}]
    dear = {"number": 1, "name": "dear", "condition": condition, "action": {"do": "exclude", "locations": ["SH"]}}
    order = Facts(total=total, ask_total=None if total else "no rate")
    result = rules.evaluate([Rule.model_validate(dear)], order, [], {})
    assert (result.ask, result.excluded) == (asked, {})
    elsewhere = Rule.model_validate(dear | {"condition": [{"field": "quantity", "op": "gte", "value": 5000}]})
    assert rules.evaluate([elsewhere], order, [], {}).ask is None

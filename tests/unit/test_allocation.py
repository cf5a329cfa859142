"""Plans promise only available stock, cover every line, and use as few parcels as possible."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from activities.allocation import planning
from activities.allocation.allocation import needs
from activities.allocation.planning import Problem, Stock
from models.allocation import Facts, Plan, Site
from models.fulfillment import FulfillmentLine
from tests.unit.orders import line

SITES = (
    Site(code="SH", province="上海市", rank=10),
    Site(code="GZ", province="广东省", rank=20),
    Site(code="BJ", province="北京市", rank=30),
    Site(code="CD", province="四川省", rank=40),
)


def lines_of(*quantities: tuple[str, int]) -> list[FulfillmentLine]:
    return [
        FulfillmentLine(line_no=str(number), sku=sku, quantity=quantity)
        for number, (sku, quantity) in enumerate(quantities, 1)
    ]


def plan(
    lines: Sequence[FulfillmentLine], stock: Stock, sites: Sequence[Site], province: str, *, in_part: bool = False
) -> Plan:
    now = datetime(2026, 3, 2, 2, tzinfo=UTC)
    return planning.plan(
        Problem(order=Facts(province=province), lines=lines, stock=stock, sites=sites, now=now, allow_partial=in_part)
    )


def sends(result: Plan) -> dict[str, list[tuple[str, str, int]]]:
    return {load.warehouse: [(each.line_no, each.sku, each.quantity) for each in load.lines] for load in result.loads}


def reasons(result: Plan) -> dict[str, str]:
    return {each.warehouse: each.reason for each in result.candidates}


def test_warehouse_in_the_buyers_province_ships_all() -> None:
    everywhere = {site.code: {"A001": 5} for site in SITES}
    result = plan(lines_of(("A001", 2)), everywhere, SITES, "广东")
    assert sends(result) == {"GZ": [("1", "A001", 2)]}
    assert reasons(result) == {"SH": "plan.behind", "GZ": "plan.nearest", "BJ": "plan.behind", "CD": "plan.behind"}


def test_region_then_rank_decides_otherwise() -> None:
    everywhere = {site.code: {"A001": 5} for site in SITES}
    assert list(sends(plan(lines_of(("A001", 2)), everywhere, SITES, "河北省"))) == ["BJ"]
    assert list(sends(plan(lines_of(("A001", 2)), everywhere, SITES, "新疆维吾尔自治区"))) == ["SH"]
    assert list(sends(plan(lines_of(("A001", 2)), everywhere, SITES, ""))) == ["SH"]


def test_one_far_warehouse_precedes_two_near_ones() -> None:
    stock = {"SH": {"A001": 5}, "GZ": {"B001": 5}, "CD": {"A001": 1, "B001": 1}}
    result = plan(lines_of(("A001", 1), ("B001", 1)), stock, SITES, "上海市")
    assert sends(result) == {"CD": [("1", "A001", 1), ("2", "B001", 1)]}
    assert reasons(result)["SH"] == "plan.lacks"


def test_split_keeps_lines_whole_if_possible() -> None:
    stock = {"SH": {"A001": 3}, "GZ": {"A001": 4}}
    assert sends(plan(lines_of(("A001", 3), ("A001", 4)), stock, SITES, "上海市")) == {
        "SH": [("1", "A001", 3)],
        "GZ": [("2", "A001", 4)],
    }
    assert sends(plan(lines_of(("A001", 5)), stock, SITES, "上海市")) == {
        "SH": [("1", "A001", 1)],
        "GZ": [("1", "A001", 4)],
    }


def test_closed_warehouse_ships_nothing() -> None:
    sites = (SITES[0].model_copy(update={"closed": True}), *SITES[1:])
    result = plan(lines_of(("A001", 1)), {"SH": {"A001": 9}, "CD": {"A001": 1}}, sites, "上海市")
    assert list(sends(result)) == ["CD"]
    assert reasons(result)["SH"] == "plan.closed"


def test_bundle_components_keep_their_line() -> None:
    quantities = needs([line(1, "K001", 2), line(2, "B001", 1)], {"K001": {"B001": 2, "B002": 1}})
    assert [(each.line_no, each.sku, each.quantity) for each in quantities] == [
        ("1", "B001", 4),
        ("1", "B002", 2),
        ("2", "B001", 1),
    ]


SKUS = st.sampled_from(["A001", "A002", "A003"])
LINES = st.lists(st.tuples(SKUS, st.integers(1, 6)), min_size=1, max_size=5)
STOCK = st.dictionaries(st.sampled_from([site.code for site in SITES]), st.dictionaries(SKUS, st.integers(-2, 9)))


def held(stock: Stock, codes: tuple[str, ...], sku: str) -> int:
    return sum(max(stock.get(code, {}).get(sku, 0), 0) for code in codes)


@given(LINES, STOCK, st.sets(st.sampled_from(SITES)), st.sampled_from(["上海市", "广东", "江苏省", ""]), st.booleans())
def test_any_plan(
    quantities: list[tuple[str, int]], stock: Stock, closed: set[Site], province: str, in_part: bool
) -> None:
    lines = lines_of(*quantities)
    sites = [site.model_copy(update={"closed": site in closed}) for site in SITES]
    result = plan(lines, stock, sites, province, in_part=in_part)

    total = Counter[str]()
    for sku, quantity in quantities:
        total[sku] += quantity
    open_codes = tuple(site.code for site in sites if not site.closed)
    missing = {
        sku: quantity - there for sku, quantity in total.items() if (there := held(stock, open_codes, sku)) < quantity
    }
    assert {each.sku: each.quantity for each in result.shortages} == missing

    given_ = Counter[str]()
    of_line = Counter[tuple[str, str]]()
    for load in result.loads:
        assert load.warehouse in open_codes
        sent = Counter[str]()
        for each in load.lines:
            sent[each.sku] += each.quantity
            of_line[each.line_no, each.sku] += each.quantity
        assert all(quantity <= stock[load.warehouse].get(sku, 0) for sku, quantity in sent.items())
        given_ += sent
    due = {sku: quantity - missing.get(sku, 0) for sku, quantity in total.items()} if in_part or not missing else {}
    assert given_ == Counter({sku: quantity for sku, quantity in due.items() if quantity})
    assert all(of_line[each.line_no, each.sku] <= each.quantity for each in lines)
    if due:
        enough = (
            size
            for size in range(len(open_codes) + 1)
            for group in combinations(open_codes, size)
            if all(held(stock, group, sku) >= quantity for sku, quantity in due.items())
        )
        assert len(result.loads) == next(enough)
    assert {each.warehouse for each in result.candidates if each.chosen} == {load.warehouse for load in result.loads}
    assert len(result.candidates) == len(SITES)

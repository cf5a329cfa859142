"""Totals, status and supported actions of an order."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.fulfillment import TERMINAL_STATUSES, Fulfillment, FulfillmentLine, TrackingStatus
from models.hold import Hold, HoldKind
from models.i18n import t
from models.order import ChannelOrder, OrderStatus
from models.policy import Policy
from models.state import SUPPORTED, Action, Admitted, Allocated, End, OrderState
from models.stock import Shortage
from tests.unit.orders import RECIPIENT, an_order, line
from workflows.order.details import render_details

NOW = datetime(2026, 11, 11, tzinfo=UTC)


def admitted(order: ChannelOrder, *parcels: Fulfillment, policy: Policy | None = None) -> OrderState:
    state = OrderState(order=order, policy=policy or Policy())
    allocated = Allocated(at=NOW, fulfillments=parcels) if parcels else None
    state.admit(Admitted(at=NOW, order=order, allocated=allocated))
    return state


def parcel(number: int = 1) -> Fulfillment:
    lines = (FulfillmentLine(line_no="1", sku="A001", quantity=1),)
    return Fulfillment(id=f"order:own:web:1001:F{number}", warehouse="SH", lines=lines, waybill_no=f"SF{number}")


@given(st.lists(st.tuples(st.integers(1, 9), st.decimals(0, 500, places=2), st.integers(0, 9)), min_size=1, max_size=6))
def test_totals_match_the_quantities_to_the_cent(lines: list[tuple[int, Decimal, int]]) -> None:
    order = an_order("1", *(line(n, f"A{n:03}", q, str(p)) for n, (q, p, _) in enumerate(lines)), total=Decimal(100000))
    new = {str(n): q for n, (_, _, q) in enumerate(lines)}
    if not any(new.values()):
        with pytest.raises(ValueError, match="At least one line must remain"):
            order.with_quantities(new)
        return
    changed = order.with_quantities(new)
    difference = sum((p * (to - q) for q, p, to in lines), Decimal(0))
    assert changed.total == order.total + difference
    assert {each.line_no: each.quantity for each in changed.lines} == {n: q for n, q in new.items() if q}


@given(st.lists(st.tuples(st.integers(1, 9), st.decimals(0, 500, places=2), st.integers(0, 9)), min_size=1, max_size=6))
def test_tax_stays_proportional_and_totals_add_up(lines: list[tuple[int, Decimal, int]]) -> None:
    sold = [line(n, f"A{n:03}", q, str(p)) for n, (q, p, _) in enumerate(lines)]
    goods = sum((q * p for q, p, _ in lines), Decimal(0))
    tax = (goods / 10).quantize(Decimal("0.01"))
    order = an_order("1", *sold, total=goods + tax, tax=tax)
    assert order.mismatch == 0
    changed = order.with_quantities({"0": lines[0][0]} | {str(n): q for n, (_, _, q) in enumerate(lines) if n})
    assert changed.mismatch == 0
    assert abs(changed.tax - changed.goods / 10) <= Decimal("0.02") * len(lines)


def test_unknown_line_is_named() -> None:
    with pytest.raises(ValueError, match="no line 7"):
        an_order().with_quantities({"7": 1})


def test_status_is_derived_from_the_state() -> None:
    one, two = parcel(1), parcel(2)
    state = OrderState(order=an_order(), policy=Policy())
    assert state.status is OrderStatus.RECEIVED
    state = admitted(an_order(), one, two)
    one, two = state.fulfillments
    assert state.status is OrderStatus.ALLOCATED
    one.leave(NOW)
    assert state.status is OrderStatus.PARTIALLY_SHIPPED
    two.leave(NOW)
    assert state.status is OrderStatus.SHIPPED
    one.track(TrackingStatus.DELIVERED, NOW)
    assert state.status is OrderStatus.PARTIALLY_DELIVERED
    two.track(TrackingStatus.DELIVERED, NOW)
    assert (state.status, state.fulfilled) == (OrderStatus.DELIVERED, True)


def test_waiting_order_gives_its_reason() -> None:
    assert admitted(an_order(paid_at=None)).status is OrderStatus.AWAITING_PAYMENT
    state = admitted(an_order())
    assert state.status is OrderStatus.APPROVED
    state.plan(Allocated(at=NOW, shortages=(Shortage(sku="A001", quantity=1),)))
    assert state.status is OrderStatus.AWAITING_STOCK
    state.hold(Hold(kind=HoldKind.STAFF, reason="", since=NOW))
    assert state.status is OrderStatus.ON_HOLD
    state.hold(Hold(kind=HoldKind.REVIEW, reason="", since=NOW))
    assert state.status is OrderStatus.IN_REVIEW


@pytest.mark.parametrize("tracking", sorted(TERMINAL_STATUSES - {TrackingStatus.DELIVERED}))
def test_completed_order_names_parcels_that_did_not_arrive_and_their_reissue(tracking: TrackingStatus) -> None:
    state = admitted(an_order(), parcel(1), parcel(2))
    state.fulfillments[0].track(TrackingStatus.DELIVERED, NOW)
    state.fulfillments[1].track(tracking, NOW)
    assert state.fulfilled
    state.completed = True
    details = render_details(state)
    assert t("next.completed") not in details
    assert f"{t(f'tracking.{tracking}')}. If its goods are sent again, that is order 1001-F2R" in details
    assert "1001-F1R" not in details
    assert state.next_step == "next.completed.undelivered"
    again = admitted(an_order("1001-F2R", custom={"reissue_of": "order:own:web:1001"}))
    assert "Sends goods of order:own:web:1001 again" in render_details(again)


def test_delivery_scan_before_shipping_also_ships_the_order() -> None:
    state = admitted(an_order(), parcel())
    state.fulfillments[0].track(TrackingStatus.DELIVERED, NOW)
    assert state.status is OrderStatus.DELIVERED
    assert state.fulfillments[0].shipped_at == NOW


def test_every_status_has_supported_actions_and_shipped_orders_cannot_be_cancelled() -> None:
    assert set(SUPPORTED) == set(OrderStatus)
    for status in (OrderStatus.PARTIALLY_SHIPPED, OrderStatus.SHIPPED, OrderStatus.DELIVERED, OrderStatus.COMPLETED):
        assert Action.CANCEL not in SUPPORTED[status]
    state = admitted(an_order(), parcel())
    state.fulfillments[0].leave(NOW)
    answer = state.allows(Action.CANCEL)
    assert (answer.accepted, answer.reason, answer.params) == (False, "refused.cancel", {"status": "shipped"})


def test_every_wait_has_a_deadline() -> None:
    policy = Policy(grace=60, payment=600, review=700, stock=800, ship=900, movement=1000, delivery=1500)
    unpaid = an_order(paid_at=None, placed_at=NOW)
    assert admitted(unpaid, policy=policy).deadline == NOW + timedelta(seconds=600)
    assert admitted(an_order(paid_at=None, pay_before=NOW), policy=policy).deadline == NOW
    state = admitted(an_order(), parcel(), policy=policy)
    assert state.deadline == NOW + timedelta(seconds=900)
    state.fulfillments[0].leave(NOW + timedelta(seconds=50))
    assert state.deadline == NOW + timedelta(seconds=1050)
    state.fulfillments[0].moved_at = NOW + timedelta(seconds=900)
    assert state.deadline == NOW + timedelta(seconds=1550)
    state.hold(Hold(kind=HoldKind.STAFF, reason="", since=NOW))
    state.fulfillments.clear()
    assert state.deadline == NOW + timedelta(seconds=700)
    state.end = End.CANCELLED
    assert state.deadline is None


def test_remembered_requests_are_bounded() -> None:
    state = admitted(an_order())
    for number in range(500):
        state.remember(str(number), state.allows(Action.CANCEL))
    assert "499" in state.answers
    assert len(state.answers) == 200


def test_masked_recipient_shows_only_the_region() -> None:
    masked = RECIPIENT.masked()
    assert masked.city == "上海市"
    assert "5678" in masked.phone
    for secret in ("13812345678", "王小明", "世纪大道"):
        assert secret not in masked.model_dump_json()

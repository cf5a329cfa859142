"""Booking, release, recall and confirmation on a real database, against the twins over real HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import httpx
import pytest
from sqlalchemy import Update, insert, select, text, update
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.accounts import accounts as accounts_of_ours
from activities.allocation import rules_and_rates
from activities.fulfillment import carrier_selection, steps
from activities.fulfillment.carrier_selection import rules, trial
from activities.kit import http
from activities.kit.database import transaction
from activities.orders import steps as order_activities
from activities.stock import operations
from models.allocation import Rate
from models.carrier_selection import CarrierRule, CarrierTerms, Choice
from models.fulfillment import FulfillmentRow, Label, RequestStatus, carrier_reference
from models.i18n import t
from models.intake import AccountRow, InboxRow, InboxState, IntegrationType, Raw, Secrets
from models.order import ChannelOrder, OrderRow
from models.policy import Policy
from models.state import OrderState
from models.vault import seal_row
from starter.sandbox import merchant
from starter.sandbox.app import create_app
from starter.sandbox.carriers import sf, yto
from starter.sandbox.warehouse import SECRET
from tests.serving import served
from tests.shops import World
from tests.unit.orders import RECIPIENT, an_order, line

Result = TypeVar("Result")
CLIENT = httpx.Client(timeout=30)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


class Outside:
    """The external systems of a fulfillment order, and what they received."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.shop = World(url, "own", "web")

    async def order(self, *lines: tuple[str, int], **more: Any) -> list[str]:
        """Sell and admit an order; return the ids of its fulfillment orders."""
        number = self.shop.sell(*lines)
        sold = [line(at, sku, quantity) for at, (sku, quantity) in enumerate(lines, 1)]
        return await self.admit(an_order(number, *sold, **more))

    async def admit(self, sold: ChannelOrder) -> list[str]:
        admitted = await order_activities.admit(OrderState(order=sold, policy=Policy()), datetime.now(UTC))
        assert admitted.allocated is not None
        assert admitted.allocated.fulfillments, (admitted.holds, admitted.allocated)
        return [each.id for each in admitted.allocated.fulfillments]

    def get(self, path: str) -> Any:
        return CLIENT.get(self.url + path).json()

    def post(self, path: str, **body: Any) -> None:
        response = CLIENT.post(self.url + path, json=body)
        assert response.is_success, response.text

    def bookings(self, fulfillment_id: str, carrier: str = "sf") -> list[dict[str, Any]]:
        reference = carrier_reference(fulfillment_id)
        return [each for each in self.get(f"/{carrier}/_control/bookings") if each["reference"] == reference]

    def jobs(self, fulfillment_id: str) -> list[dict[str, Any]]:
        jobs = self.get("/warehouse/_control/fulfillments")
        return [each for each in jobs if each["fulfillment_id"] == fulfillment_id]


@pytest.fixture
async def outside(database: str, sandbox: str) -> AsyncIterator[Outside]:
    """Create accounts, and stock that ships A001 and A002 in one parcel, but A001 and B001 in two."""
    accounts = [
        (IntegrationType.CARRIER, "sf", "main", f"{sandbox}/sf", sf.SECRETS),
        (IntegrationType.CARRIER, "yto", "main", f"{sandbox}/yto/open", yto.SECRETS),
        (IntegrationType.CHANNEL, "own", "web", f"{sandbox}/own/web", {"secret": "whisper"}),
        *(
            (IntegrationType.WAREHOUSE, "wms", code, f"{sandbox}/warehouse/{code}", {"secret": SECRET})
            for code in ("SH", "BJ")
        ),
    ]
    async with transaction() as connection:
        await merchant.seed(connection)
        for integration, source, name, url, secrets in accounts:
            row = AccountRow(
                integration=integration, source=source, account=name, base_url=url, secrets=Secrets(values=secrets)
            )
            values = seal_row(AccountRow, {**row.model_dump(), "secrets": row.secrets})
            await connection.execute(insert(AccountRow).values(values))
        for warehouse, skus in (("SH", ("A001", "A002")), ("BJ", ("B001", "B002"))):
            for sku in skus:
                await operations.receive(connection, warehouse, sku, 50, f"{warehouse}{sku}", "test")
    yield Outside(sandbox)
    await http.close()


async def run(step: Callable[[str], Awaitable[Result]], fulfillment_id: str, attempt: int = 1) -> Result:
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, attempt=attempt)
    return await environment.run(step, fulfillment_id)


def change_secrets(source: str, secrets: dict[str, str]) -> Update:
    """Return the statement that changes what our account with a carrier signs with."""
    key = {"integration": IntegrationType.CARRIER, "source": source, "account": "main"}
    sealed = seal_row(AccountRow, key | {"secrets": Secrets(values=secrets)})
    return update(AccountRow).where(AccountRow.source == source).values(sealed)  # type: ignore[arg-type]


async def row(fulfillment_id: str) -> Any:
    async with transaction() as connection:
        return (await connection.execute(select(FulfillmentRow).where(FulfillmentRow.id == fulfillment_id))).one()


async def refusal(act: Awaitable[Any]) -> ApplicationError:
    with pytest.raises(ApplicationError) as caught:
        await act
    return caught.value


@pytest.fixture
async def short_timeout(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Time out after 0.3 seconds."""
    client = httpx.AsyncClient(timeout=0.3)
    monkeypatch.setattr(http, "_client", client)
    yield
    await client.aclose()


async def test_a_booking_is_saved_with_its_label_and_made_once(outside: Outside) -> None:
    (parcel,) = await outside.order(("A001", 3), ("A002", 1))
    waybill = await run(steps.book_waybill, parcel)
    kept = await row(parcel)
    assert (kept.carrier, kept.waybill_no) == ("sf", waybill.waybill_no)
    assert kept.label["route"]
    assert waybill.label == Label()
    assert await run(steps.book_waybill, parcel) == waybill
    (booking,) = outside.bookings(parcel)
    assert booking["calls"] == 1
    weights = {sku: Decimal(weight) for sku, *_, weight in merchant.SKUS}
    assert Decimal(str(booking["weight_kg"])) == 3 * weights["A001"] + weights["A002"]
    assert RECIPIENT.phone not in waybill.model_dump_json()


async def test_required_carrier_with_an_account_is_booked(outside: Outside) -> None:
    (required,) = await outside.order(("A001", 1), carrier="yto")
    assert (await run(steps.book_waybill, required)).carrier == "yto"
    (unknown,) = await outside.order(("A001", 1), carrier="zto")
    assert (await run(steps.book_waybill, unknown)).carrier == "sf"


async def test_booking_without_an_account_is_refused_and_cancelling_does_nothing(outside: Outside) -> None:
    (parcel,) = await outside.order(("A001", 1))
    async with transaction() as connection:
        await connection.execute(AccountRow.__table__.delete().where(AccountRow.integration == IntegrationType.CARRIER))
    assert (
        await refusal(run(steps.book_waybill, parcel))
    ).message == "location.no_carrier_account?warehouse=SH&carrier=sf"
    await run(steps.cancel_waybill, parcel)


@pytest.mark.parametrize("carrier", ["sf", "yto"])
async def test_a_timeout_after_booking_never_books_twice(outside: Outside, carrier: str, short_timeout: None) -> None:
    (parcel,) = await outside.order(("A001", 1), carrier=carrier)
    operation = {"sf": "EXP_RECE_CREATE_ORDER", "yto": "privacy_create_adapter"}[carrier]
    reference = carrier_reference(parcel)
    outside.post("/_faults", system=carrier, operation=operation, match=reference, fault="timeout_after", seconds=1)
    assert (await refusal(run(steps.book_waybill, parcel))).type == "Unavailable"
    assert (await row(parcel)).waybill_no is None
    waybill = await run(steps.book_waybill, parcel, attempt=2)
    (booking,) = outside.bookings(parcel, carrier)
    assert booking["waybill_no"] == waybill.waybill_no == (await row(parcel)).waybill_no


async def test_a_booking_lost_before_it_was_saved_is_found_again(outside: Outside) -> None:
    (parcel,) = await outside.order(("A001", 1))
    waybill = await run(steps.book_waybill, parcel)
    async with transaction() as connection:
        await connection.execute(update(FulfillmentRow).values(waybill_no=None, carrier=None))
    assert await run(steps.book_waybill, parcel) == waybill
    assert len(outside.bookings(parcel)) == 1


async def test_a_refused_address_is_reported_by_its_code(outside: Outside) -> None:
    (parcel,) = await outside.order(("A001", 1), recipient=RECIPIENT)
    async with transaction() as connection:
        order_id = await connection.scalar(select(OrderRow.id))
        recipient = RECIPIENT.model_copy(update={"street": ""})
        await connection.execute(update(OrderRow).values(seal_row(OrderRow, {"id": order_id, "recipient": recipient})))
    error = await refusal(run(steps.book_waybill, parcel))
    assert (error.type, error.message) == ("Refused", "carrier.sf.1014")


async def test_cash_on_delivery_is_collected_once_over_all_parcels(outside: Outside) -> None:
    number = outside.shop.sell(("A001", 1), ("B001", 2))
    lines = [line(1, "A001", 1, "33.33"), line(2, "B001", 2, "25.00", "0.01")]
    sold = an_order(number, *lines, paid_at=None, cash_on_delivery=True, freight=Decimal(10), total=Decimal("93.32"))
    parcels = await outside.admit(sold)
    assert len(parcels) == 2
    for each in parcels:
        await run(steps.book_waybill, each)
    cash = [
        Decimal(booking["cash"])
        for each in parcels
        for name in ("sf", "yto")
        for booking in outside.bookings(each, name)
    ]
    assert len(cash) == 2
    assert all(cash)
    assert sum(cash) == Decimal("93.32")


async def test_a_paid_parcel_collects_nothing(outside: Outside) -> None:
    (parcel,) = await outside.order(("A001", 1))
    await run(steps.book_waybill, parcel)
    assert outside.bookings(parcel)[0]["cash"] == ""


async def test_a_release_is_submitted_once_and_settles_the_order(outside: Outside) -> None:
    (parcel,) = await outside.order(("A001", 2))
    order_id = parcel.rpartition(":")[0]
    async with transaction() as connection:
        values = seal_row(
            InboxRow,
            dict(
                integration=IntegrationType.CHANNEL,
                source="own",
                account="web",
                fact_key="f1",
                topic="",
                priority=3,
                raw=Raw(body=b"e30="),
                state=InboxState.STARTED,
                reason="",
                field="",
                attempts=0,
                actor="",
                order_id=order_id,
                received_at=datetime.now(UTC),
            ),
        )
        await connection.execute(insert(InboxRow).values(values))
    await run(steps.book_waybill, parcel)
    for _ in range(2):
        assert await run(steps.release_to_warehouse, parcel) is RequestStatus.SUBMITTED
    (job,) = outside.jobs(parcel)
    assert (job["warehouse"], job["units"], job["calls"]) == ("SH", 2, 1)
    assert job["waybill_no"] == (await row(parcel)).waybill_no
    assert job["recipient"]["city"] == RECIPIENT.city
    assert RECIPIENT.phone not in str(job)
    assert RECIPIENT.street not in str(job)
    assert (await row(parcel)).request_status == RequestStatus.SUBMITTED
    async with transaction() as connection:
        assert (await connection.scalars(select(InboxRow.state))).one() == InboxState.DONE


async def test_a_later_status_from_the_warehouse_is_not_overwritten(outside: Outside) -> None:
    (parcel,) = await outside.order(("A001", 1))
    await run(steps.book_waybill, parcel)
    async with transaction() as connection:
        await connection.execute(update(FulfillmentRow).values(request_status=RequestStatus.ACCEPTED))
    assert await run(steps.release_to_warehouse, parcel) is RequestStatus.ACCEPTED
    assert outside.jobs(parcel) == []


async def test_a_booking_without_sender_or_carrier_names_the_location_and_the_remedy(outside: Outside) -> None:
    (fulfillment_id,) = await outside.order(("A001", 1))
    for change, remedy in (
        ("carrier = ''", "hengdan locations set SH --carrier"),
        ("carrier = 'zto'", "hengdan accounts set carrier zto"),
        ("sender = NULL", "hengdan locations set SH --contact"),
    ):
        async with transaction() as connection:
            await connection.execute(text(f"UPDATE warehouses SET {change} WHERE code = 'SH'"))
        error = await refusal(run(steps.book_waybill, fulfillment_id))
        assert error.non_retryable
        assert remedy in t(error.message, "en")
        assert remedy in t(error.message, "zh-CN")


async def test_an_unbooked_fulfillment_order_is_recalled_without_a_request(outside: Outside) -> None:
    (parcel,) = await outside.order(("A001", 1))
    assert (await run(steps.recall_from_warehouse, parcel)).accepted
    assert outside.jobs(parcel) == []


async def test_a_release_without_an_answer_is_recalled_from_the_warehouse(
    outside: Outside, short_timeout: None
) -> None:
    (parcel,) = await outside.order(("A001", 1))
    await run(steps.book_waybill, parcel)
    outside.post("/warehouse/_control/hold", match=parcel)
    outside.post("/_faults", system="warehouse", operation="submit", match=parcel, fault="timeout_after", seconds=1)
    assert (await refusal(run(steps.release_to_warehouse, parcel))).type == "Unavailable"
    assert (await row(parcel)).request_status == RequestStatus.UNSUBMITTED
    assert (await run(steps.recall_from_warehouse, parcel)).accepted
    (job,) = outside.jobs(parcel)
    assert job["state"] == "recalled"
    assert (await row(parcel)).request_status == RequestStatus.CANCELLATION_ACCEPTED


async def test_a_shipped_fulfillment_order_cannot_be_recalled(outside: Outside) -> None:
    (parcel,) = await outside.order(("A001", 1))
    await run(steps.book_waybill, parcel)
    await run(steps.release_to_warehouse, parcel)
    outside.post("/warehouse/_control/ship", fulfillment_id=parcel)
    recall = await run(steps.recall_from_warehouse, parcel)
    assert (recall.accepted, recall.reason) == (False, "shipped")
    assert (await row(parcel)).request_status == RequestStatus.CANCELLATION_REJECTED


async def test_a_booking_without_an_answer_is_cancelled_too(outside: Outside, short_timeout: None) -> None:
    (parcel,) = await outside.order(("A001", 1))
    reference = carrier_reference(parcel)
    outside.post(
        "/_faults", system="sf", operation="EXP_RECE_CREATE_ORDER", match=reference, fault="timeout_after", seconds=1
    )
    await refusal(run(steps.book_waybill, parcel))
    for _ in range(2):
        await run(steps.cancel_waybill, parcel)
    assert [each["cancelled"] for each in outside.bookings(parcel)] == [True]


async def test_the_channel_gets_each_shipment_once_with_its_lines(outside: Outside) -> None:
    parcels = await outside.order(("A001", 1), ("B001", 2))
    assert len(parcels) == 2
    for each in parcels:
        await run(steps.book_waybill, each)
        await run(steps.confirm_shipment, each)
        await run(steps.confirm_shipment, each)
    number = parcels[0].split(":")[3]
    shipments = [each for each in outside.shop.shipments if each["order_no"] == number]
    assert sorted((each["carrier"], str(each["lines"])) for each in shipments) == [
        ("sf", "{'1': 1}"),
        ("yto", "{'2': 2}"),
    ]
    assert all([(await row(each)).channel_notified for each in parcels])


async def test_a_bundle_is_reported_as_it_was_sold(outside: Outside) -> None:
    (parcel,) = await outside.order(("K001", 3))
    assert {each["sku"]: each["quantity"] for each in (await row(parcel)).lines} == {"B001": 6, "B002": 3}
    await run(steps.book_waybill, parcel)
    await run(steps.confirm_shipment, parcel)
    (shipment,) = [each for each in outside.shop.shipments if each["order_no"] == parcel.split(":")[3]]
    assert shipment["lines"] == {"1": 3}


@pytest.mark.parametrize(
    "step",
    [
        steps.book_waybill,
        steps.release_to_warehouse,
        steps.recall_from_warehouse,
        steps.cancel_waybill,
        steps.confirm_shipment,
    ],
)
async def test_an_unknown_fulfillment_order_is_refused(outside: Outside, step: Callable[[str], Awaitable[Any]]) -> None:
    assert (await refusal(run(step, "order:own:web:none:F1"))).type == "Refused"


# Carrier selection


async def rates(*tables: tuple[str, str]) -> None:
    async with transaction() as connection:
        for name, price in tables:
            await rules_and_rates.replace_rates(
                connection, name, [Rate(carrier=name, first_price=Decimal(price), days=2)]
            )
    carrier_selection.clear_cache()


async def test_the_best_carrier_books_and_all_options_are_saved(outside: Outside) -> None:
    await rates(("sf", "20"), ("yto", "8"))
    (parcel,) = await outside.order(("A001", 1))
    waybill = await run(steps.book_waybill, parcel)
    assert waybill.carrier == "yto"
    kept = Choice.model_validate((await row(parcel)).choice)
    assert [(each.carrier, each.reason) for each in kept.options] == [("yto", "choice.scored"), ("sf", "choice.scored")]
    assert (len(outside.bookings(parcel, "yto")), outside.bookings(parcel, "sf")) == (1, [])


async def test_the_next_carrier_books_if_the_best_one_refuses(outside: Outside) -> None:
    await rates(("sf", "20"), ("yto", "8"))
    async with transaction() as connection:
        await connection.execute(change_secrets("yto", {**yto.SECRETS, "secret": "withdrawn"}))
    accounts_of_ours.clear_cache()
    (parcel,) = await outside.order(("A001", 1))
    assert (await run(steps.book_waybill, parcel)).carrier == "sf"
    kept = Choice.model_validate((await row(parcel)).choice)
    assert [(each.carrier, each.reason, each.open) for each in kept.options] == [
        ("yto", "choice.refused", False),
        ("sf", "choice.scored", True),
    ]
    assert (outside.bookings(parcel, "yto"), len(outside.bookings(parcel, "sf"))) == ([], 1)
    await run(steps.cancel_waybill, parcel)
    assert outside.bookings(parcel, "sf")[0]["cancelled"]


async def test_a_lost_answer_keeps_the_carrier_despite_new_prices(outside: Outside, short_timeout: None) -> None:
    await rates(("sf", "5"), ("yto", "8"))
    (parcel,) = await outside.order(("A001", 1))
    reference = carrier_reference(parcel)
    outside.post("/_faults", system="sf", operation=sf.BOOK, match=reference, fault="timeout_after", seconds=1)
    assert (await refusal(run(steps.book_waybill, parcel))).type == "Unavailable"
    await rates(("sf", "50"), ("yto", "8"))
    for attempt in (2, 1):
        assert (await run(steps.book_waybill, parcel, attempt)).carrier == "sf"
    assert (len(outside.bookings(parcel, "sf")), outside.bookings(parcel, "yto")) == (1, [])


async def test_a_carrier_that_may_have_booked_is_not_replaced_when_it_refuses(
    outside: Outside, short_timeout: None
) -> None:
    await rates(("sf", "5"), ("yto", "8"))
    (parcel,) = await outside.order(("A001", 1))
    reference = carrier_reference(parcel)
    outside.post("/_faults", system="sf", operation=sf.BOOK, match=reference, fault="timeout_after", seconds=1)
    assert (await refusal(run(steps.book_waybill, parcel))).type == "Unavailable"
    async with transaction() as connection:
        await connection.execute(change_secrets("sf", {**sf.SECRETS, "check_word": "withdrawn"}))
    accounts_of_ours.clear_cache()
    error = await refusal(run(steps.book_waybill, parcel, 2))
    assert (error.type, error.non_retryable) == ("Refused", True)
    assert (len(outside.bookings(parcel, "sf")), outside.bookings(parcel, "yto")) == (1, [])


async def test_carriers_are_ranked_again_after_all_refused_and_the_hold_is_released(outside: Outside) -> None:
    for name in ("sf", "yto"):
        async with transaction() as connection:
            await carrier_selection.save_terms(connection, CarrierTerms(carrier=name, active=False))
    (parcel,) = await outside.order(("A001", 1))
    error = await refusal(run(steps.book_waybill, parcel))
    assert (error.non_retryable, error.message) == (True, "carrier.none")
    async with transaction() as connection:
        await carrier_selection.save_terms(connection, CarrierTerms(carrier="yto", max_kg=Decimal(100)))
    assert (await run(steps.book_waybill, parcel)).carrier == "yto"


async def test_a_carrier_rule_applies_and_can_be_tried_first(outside: Outside) -> None:
    await rates(("sf", "20"), ("yto", "8"))
    rule = CarrierRule.model_validate(
        {
            "number": 10,
            "name": "with sf alone",
            "condition": "parcel.warehouse == 'SH' && 'A001' in parcel.skus",
            "decisions": [{"do": "only", "carriers": ["sf"]}],
        }
    )
    before, after = await outside.order(("A001", 1)), await outside.order(("A001", 1))
    assert (await run(steps.book_waybill, before[0])).carrier == "yto"
    tried = await trial.run(rule, datetime.now(UTC) - timedelta(hours=1))
    assert (tried.parcels, tried.applied, tried.moved) == (2, 2, {"yto sf": 2})
    assert (tried.freight_before, tried.freight_after) == (16, 40)
    async with transaction() as connection:
        await rules.save_rule(connection, rule)
    carrier_selection.clear_cache()
    assert (await run(steps.book_waybill, after[0])).carrier == "sf"
    kept = Choice.model_validate((await row(after[0])).choice)
    assert [each.reason for each in kept.options] == ["choice.scored", "choice.excluded"]
    assert [each.name for each in kept.ruled] == ["with sf alone"]


async def test_a_rule_applies_to_the_only_carrier_too(outside: Outside) -> None:
    out = {"number": 1, "name": "no", "condition": "true", "decisions": [{"do": "exclude", "carriers": ["sf", "yto"]}]}
    async with transaction() as connection:
        await rules.save_rule(connection, CarrierRule.model_validate(out))
    carrier_selection.clear_cache()
    (parcel,) = await outside.order(("A001", 1))
    assert (await refusal(run(steps.book_waybill, parcel))).message == "carrier.none"

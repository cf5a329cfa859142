"""Foreign addresses are checked by the rules of their country."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from activities import cleansing
from activities.cleansing import world
from models.address import Recipient
from models.hold import HoldKind
from models.policy import Policy
from tests.unit.orders import an_order

NOW = datetime(2026, 3, 2, tzinfo=UTC)
AMERICAN = {
    "name": "Ann Lee",
    "phone": "+1 415 555 2671",
    "country": "US",
    "province": "California",
    "city": "Mountain View",
    "street": "1600 Amphitheatre Pkwy",
    "postcode": "94043",
}


def reasons(policy: Policy | None = None, **person: str) -> list[str]:
    order = cleansing.standardise(an_order(recipient=Recipient(**person)))
    holds = cleansing.validation_holds(order, policy or Policy(), NOW)
    assert all(hold.kind is HoldKind.ADDRESS for hold in holds)
    return [hold.reason for hold in holds]


def test_valid_foreign_address_is_unchanged_and_gets_its_subdivision() -> None:
    person = cleansing.recipient(Recipient(**AMERICAN))
    assert (person.province, person.city, person.street) == ("California", "Mountain View", "1600 Amphitheatre Pkwy")
    assert (person.division, person.confidence) == ("US-CA", Decimal(1))
    assert reasons(**AMERICAN) == []


@pytest.mark.parametrize("field", ["name", "phone", "province", "city", "street", "postcode"])
def test_missing_required_field_is_named(field: str) -> None:
    assert reasons(**AMERICAN | {field: ""}) == [f"hold.address.{field}"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"postcode": "9404"}, "hold.address.wrong.postcode"),
        ({"postcode": "10001"}, "hold.address.wrong.postcode"),
        ({"province": "Guangdong"}, "hold.address.wrong.province"),
        ({"country": "XX"}, "hold.address.wrong.country"),
    ],
)
def test_invalid_field_is_named(changed: dict[str, str], reason: str) -> None:
    assert reasons(**AMERICAN | changed) == [reason]


def test_postcode_is_written_in_the_format_of_the_country() -> None:
    person = Recipient(country="CA", province="Ontario", city="Toronto", street="1 Front St", postcode="m5v 3l9")
    assert cleansing.recipient(person).postcode == "M5V 3L9"


def test_city_unknown_to_the_metadata_is_kept() -> None:
    person = Recipient(country="JP", province="東京都", city="千代田区", street="丸の内1-1", postcode="100-0001")
    cleansed = cleansing.recipient(person)
    assert (cleansed.city, cleansed.street, cleansed.division) == ("千代田区", "丸の内1-1", "JP-13")


def test_singapore_needs_no_city() -> None:
    assert reasons(name="Tan", phone="+65 6123 4567", country="SG", street="1 Orchard Rd", postcode="238801") == []


def test_confidence_threshold_is_set_by_shop() -> None:
    vague = {"name": "王小明", "phone": "13812345678", "province": "广东", "city": "深圳", "district": "南山"}
    vague["street"] = "科技园附近"
    assert reasons(**vague) == ["hold.address.vague"]
    assert reasons(Policy(address_confidence=Decimal("0.5")), **vague) == []


@pytest.mark.parametrize(
    ("country", "told", "province"),
    [
        ("JP", "JP13", "Tokyo"), ("JP", "Tōkyō", "Tokyo"), ("IN", "MH", "Maharashtra"), ("TH", "TH-10", "Bangkok"),
        ("TR", "TR34", "İstanbul"), ("ID", "JK", "DKI Jakarta"), ("MY", "KUL", "Kuala Lumpur"),
        ("PH", "00", "Metro Manila"),
        ("IE", "D", "Co. Dublin"), ("KR", "Gyeonggi", "Gyeonggi-do"), ("US", "Armed Forces Pacific", "AP"),
        ("BR", "Sao Paulo", "São Paulo"), ("US", "CA", "CA"), ("US", "Guangdong", "Guangdong"),
    ],
)  # fmt: skip
def test_area_by_code_or_common_name_is_read(country: str, told: str, province: str) -> None:
    assert world.area(country, told) == province


@pytest.mark.parametrize(
    ("told", "region"),
    [
        ("浙江杭州", "CN 浙江省 杭州市"),
        ("浙江省 杭州市", "CN 浙江省 杭州市"),
        ("US New York New York", "US New\xa0York New\xa0York"),
        ("BR São Paulo", "BR São\xa0Paulo"),
        ("somewhere", "CN somewhere"),
    ],
)
def test_region_that_a_person_wrote_is_standardised(told: str, region: str) -> None:
    assert cleansing.region(told) == region

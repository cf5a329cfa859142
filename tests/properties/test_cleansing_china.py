"""Addresses in China are split, completed, corrected, and given a low confidence if doubtful."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities import cleansing
from models.address import ADDRESS, Recipient, RecipientChange


def given_address(text: str, **more: str) -> Recipient:
    """Return a recipient from free text, or from fields separated by ``|``."""
    fields = text.split("|")
    parts = dict(zip(("province", "city", "district", "street"), fields, strict=False)) if fields[1:] else {}
    return Recipient(name="王小明", phone="13812345678", **(parts or {"street": text}), **more)


def place(text: str) -> str:
    person = cleansing.recipient(given_address(text))
    return "|".join((person.province, person.city, person.district, person.division))


SHENZHEN = "广东省|深圳市|南山区|440305"


@pytest.mark.parametrize(
    "text",
    [
        "广东省|深圳市|南山区|科技园路1号",
        "广东|深圳|南山|科技园路1号",
        "广东省深圳市南山区科技园路1号",
        "广东深圳南山区科技园路1号",
        "深圳市南山区科技园路1号",
        "中国广东省深圳市南山区科技园路1号",
        "|||广东省 深圳市 南山区 科技园路1号",
        "广东省|深圳市|南山区|广东省深圳市南山区科技园路1号",
        "廣東省深圳市南山區科技園路1號",
        "GD Shenzhen Nanshan",
        "Guangdong Sheng|深圳市|南山区|科技园路1号",
        "Room 501, No. 8 Keji Road, Nanshan District, Shenzhen, Guangdong, China",
    ],
)
def test_spellings_of_a_place_are_standardised(text: str) -> None:
    assert place(text) == SHENZHEN


@pytest.mark.parametrize("text", ["广东|深圳|南山区|科技园路1号", "广东省深圳市南山区科技园路1号"])
def test_short_and_full_names_have_full_confidence(text: str) -> None:
    person = cleansing.recipient(given_address(text))
    assert (person.confidence, person.doubt) == (Decimal(1), "")


def test_original_of_a_changed_address_is_kept() -> None:
    person = cleansing.recipient(given_address("广东|深圳|南山区|科技园路1号"))
    assert person.told == "广东 深圳 南山区 科技园路1号"
    assert cleansing.recipient(given_address("广东省|深圳市|南山区|科技园路1号")).told == ""


def test_contradiction_lowers_the_confidence() -> None:
    person = cleansing.recipient(given_address("江苏省上海市浦东新区世纪大道100号"))
    assert person.address == ("上海市", "上海市", "浦东新区", "", "世纪大道100号")
    assert person.confidence == Decimal("0.5")
    assert person.doubt == "hold.address.contradiction"


def test_smaller_division_wins() -> None:
    assert place("江苏省|上海市||世纪大道100号") == "上海市|上海市||310000"
    assert place("广东省|深圳市|南山区|上海市1号") == SHENZHEN


def test_ambiguous_name_is_not_resolved() -> None:
    person = cleansing.recipient(given_address("江苏省鼓楼区中山路1号"))
    assert person.address == ("江苏省", "", "", "", "鼓楼区中山路1号")
    assert person.doubt == "hold.address.ambiguous"


def test_town_is_split_from_the_street() -> None:
    assert cleansing.recipient(given_address("广东省东莞市虎门镇虎门大道1号")).town == "虎门镇"
    assert cleansing.recipient(given_address("北京市朝阳区望京街道办事处阜通东大街6号")).address[2:] == (
        "朝阳区",
        "望京街道",
        "阜通东大街6号",
    )
    assert cleansing.recipient(given_address("广东省|深圳市|南山区|科技园路1号", town="粤海街道")).town == "粤海街道"


def test_text_too_long_for_the_street_stays_in_its_field() -> None:
    person = cleansing.recipient(given_address(f"广东|深圳|某某|{'长' * 199}"))
    assert person.address == ("广东", "深圳", "某某", "", "长" * 199)
    assert person.doubt == "hold.address.unread"


def test_unknown_town_is_kept_unchanged() -> None:
    person = cleansing.recipient(given_address("广东省|深圳市|南山区|科技园路1号", town="没有街道"))
    assert (person.town, person.street) == ("没有街道", "科技园路1号")


def test_name_and_phone_are_removed_from_the_street() -> None:
    person = cleansing.recipient(given_address("王小明 13812345678 广东省深圳市南山区科技园路1号"))
    assert person.address == ("广东省", "深圳市", "南山区", "", "科技园路1号")


def test_another_persons_phone_in_the_street_stays_and_lowers_the_confidence() -> None:
    person = cleansing.recipient(given_address("李四 13900000000 广东省深圳市南山区科技园路1号"))
    assert "李四 13900000000" in person.street
    assert person.confidence is not None
    assert person.confidence < Decimal("0.8")


def test_missing_name_and_phone_are_found_in_the_street() -> None:
    person = cleansing.recipient(Recipient(street="收货人：张三，电话：13800000000，地址：广东省深圳市南山区科技园1号"))
    assert (person.name, person.digits, person.street) == ("张三", "13800000000", "科技园1号")


def test_changed_address_is_cleansed_again() -> None:
    person = cleansing.recipient(given_address("江苏省上海市浦东新区世纪大道100号"))
    corrected = RecipientChange(street="世纪大道101号").applied_to(person)
    assert corrected.confidence is None
    assert cleansing.recipient(corrected).confidence == Decimal(1)
    assert RecipientChange(phone="13900000000").applied_to(person).confidence == Decimal("0.5")


NAMES = [
    "广东省",
    "广东",
    "深圳市",
    "南山区",
    "南山",
    "上海市",
    "朝阳区",
    "朝阳",
    "鼓楼区",
    "虎门镇",
    "东莞",
    "城区",
    "吉林",
]
OTHERS = [
    "市辖区",
    "高新区",
    "新区",
    "附近",
    "路",
    "1号",
    "區",
    "：",
    ",",
    " ",
    "13800000000",
    "张三",
    "Nanshan",
    "Qu",
    "GD",
]
words = st.sampled_from([*NAMES, *OTHERS]) | st.text(max_size=3)
messy = st.lists(words, max_size=9).map("".join).map(lambda text: text[:200])


@settings(max_examples=150, deadline=None)
@given(st.tuples(messy, messy, messy, messy, messy))
def test_cleansing_is_idempotent_and_loses_nothing(parts: tuple[str, ...]) -> None:
    person = Recipient(name="王小明", phone="13812345678", **dict(zip(ADDRESS, parts, strict=True)))
    cleansed = cleansing.recipient(person)
    assert Recipient.model_validate(cleansed.model_dump()) == cleansed
    assert cleansing.recipient(cleansed) == cleansed
    if cleansed.address != person.address:
        assert cleansed.told == " ".join(filter(None, person.address))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("四川省|乐山市|金口河区|乾县建设大路3号", None),
        ("陝西省咸陽市乾縣建設大路3號", "建设大路3号"),
        ("浙江杭州建德乾潭鎮廣場路3號", "广场路3号"),
    ],
)
def test_characters_of_place_names_are_not_simplified_away(text: str, expected: str | None) -> None:
    person = cleansing.recipient(given_address(text))
    assert "干" not in person.town + person.street
    assert person.street == expected or (expected is None and person.confidence < Decimal("0.8"))

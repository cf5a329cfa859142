"""Sweeps over the gazetteer: each form of an address is tried with every district, or with a random sample.

The truth comes from the gazetteer. A result is *silently wrong* if it is not held and names another district than the
one written, or if the text is a contradiction or nothing to deliver to and is not held all the same. A hold is
*needless* where the text is clear.
"""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from pypinyin import lazy_pinyin

from activities import cleansing
from activities.cleansing.gazetteer import Place, gazetteer
from models.address import Recipient
from models.policy import Policy
from tests.unit.orders import an_order

AT = datetime(2026, 11, 11, tzinfo=UTC)


class Case(NamedTuple):
    recipient: Recipient
    truth: Place | None
    """``None``: the text is to be held."""


class Result(NamedTuple):
    cases: int = 0
    silently_wrong: int = 0
    held: int = 0
    examples: tuple[str, ...] = ()

    @property
    def needless(self) -> Decimal:
        """The share of clear addresses that are held; 0 for sweeps whose every case is to be held."""
        return round(Decimal(self.held) / max(self.cases, 1), 4)


@lru_cache(1)
def districts() -> list[Place]:
    """Return every district whose name is unique within its city and long enough to be no generic word."""
    generic = ("城区", "郊区", "矿区", "市区", "新区", "东区", "西区", "南区", "北区", "中区")
    return [each for each in gazetteer().places.values() if each.district and each.district not in generic]


@lru_cache(1)
def cities() -> list[Place]:
    return [each for each in gazetteer().places.values() if each.level == 2 and gazetteer().below[each]]


def _fields(place: Place, street: str, **more: str) -> Recipient:
    fields = {"province": place.province, "city": place.city, "district": place.district, "street": street}
    return Recipient(**{"name": "王芳", "phone": "13912345678", **fields, **more})


def _text(place: Place, before: str, street: str) -> Recipient:
    names = dict.fromkeys((place.province, place.city, place.district))
    return Recipient(name="王芳", phone="13912345678", street=f"{before}{''.join(names)}{street}")


def _short(place: Place) -> str:
    names = gazetteer().names
    return next((s for n in range(2, 5) if (s := place.name[:n]) in names and place in names[s]), place.name)


def _elsewhere(rng: random.Random, place: Place, among: list[Place]) -> Place:
    return next(each for _ in range(999) if (each := rng.choice(among)).province != place.province)


def company_before(rng: random.Random, place: Place) -> Case:
    other = _short(_elsewhere(rng, place, cities()))
    word = rng.choice(("啤酒批发部 ", "粮行 ", "小吃店 ", "烧饼铺 ", "特产超市 ", "商会 "))
    return Case(_text(place, other + word, "平原路3号"), place)


def city_named_shop_in_street(rng: random.Random, place: Place) -> Case:
    other = _short(_elsewhere(rng, place, cities()))
    word = rng.choice(("路8号", "小吃店", "大厦5楼", "东路12号", "商会3楼", "酒店1楼"))
    return Case(_fields(place, f"人民路3号{other}{word}" if len(word) > 3 else f"{other}{word}3号"), place)


def wrong_short_place_in_street(rng: random.Random, place: Place) -> Case:
    other = _elsewhere(rng, place, districts())
    city = next(each for each in gazetteer().places.values() if each.holds(other) and each.level == 2)
    before = rng.choice(("", "人民路3号 ", "寄到"))
    return Case(_fields(place, f"{before}{_short(city)}{other.district}建设大路3号"), None)


def wrong_full_place_in_street(rng: random.Random, place: Place) -> Case:
    other = _elsewhere(rng, place, districts())
    return Case(_fields(place, f"{other.province}{other.district}建设大路3号"), None)


def wrong_district_in_street(rng: random.Random, place: Place) -> Case:
    """The street begins with a district of another province that lies nowhere in this one."""
    names = gazetteer().names
    while True:
        other = _elsewhere(rng, place, districts())
        if all(each.province != place.province for each in names[other.district]):
            return Case(_fields(place, f"{other.district}建设大路3号"), None)


def town_of_another_district(rng: random.Random, place: Place) -> Case | None:
    city = place.parent
    own, all_towns = gazetteer().towns(place), gazetteer().towns(city) if city else {}
    towns = [each for each in all_towns if each not in own and each.endswith(("镇", "乡", "街道"))]
    return Case(_fields(place, f"{rng.choice(towns)}人民中路3号"), None) if towns and own else None


def own_town(rng: random.Random, place: Place) -> Case | None:
    towns = list(gazetteer().towns(place))
    return Case(_fields(place, f"{rng.choice(towns)}人民中路3号"), place) if towns else None


def twin(rng: random.Random, place: Place) -> Case | None:
    """The street repeats the city; its county of the same name is not meant."""
    if place.city == place.province or not place.city:
        return None
    street = f"{place.city}{rng.choice(('雅士林', '锦绣苑', '学府城'))}6栋"
    return Case(_fields(place, street, district=""), Place("", place.province, place.city))


def vague_street(rng: random.Random, place: Place) -> Case:
    streets = "文庙后头 same_as_before ××× 5 货到付款 楼下 666 丰巢 老地方 同上 电话联系 家里 菜鸟 门口 自提 xxx 放门卫"
    return Case(_fields(place, rng.choice(streets.split()).replace("_", " ")), None)


def foreign(rng: random.Random, place: Place) -> Case:
    word = "".join(lazy_pinyin(_short(rng.choice(cities())))).capitalize()
    tail = rng.choice(
        (
            "Boise, Idaho 83702", "Leeds LS1 4AP, United Kingdom", "Austin, TX 78701", "Toronto ON M5V 2T6, Canada",
            "Sydney NSW 2000", "Queens, New York", "Lyon, France", "Singapore 238801",
        )
    )  # fmt: skip
    form = rng.choice((f"30 {word} Court, {tail}", f"{word} Restaurant, 12 Main St, {tail}", f"{word} {tail}"))
    return Case(Recipient(name="A B", phone="13912345678", street=form), None)


def pinyin(rng: random.Random, place: Place) -> Case:
    def word(name: str) -> str:
        return "".join(lazy_pinyin(name)).capitalize()

    plain = [each for each in cities() if each.province.endswith("省") and each.city.endswith("市")]
    city = rng.choice(plain)
    form = f"No. 8 Renmin Road, {word(city.city[:-1])}, {word(city.province[:-1])} Province, China"
    return Case(Recipient(name="A B", phone="13912345678", street=form), city)


def compound_before(rng: random.Random, place: Place) -> Case:
    compound = rng.choice(("桂花小区8栋 ", "阳光花园3栋2单元 ", "第一中学 ", "理工大学东校区 ", "幸福家园12号楼，"))
    return Case(_text(place, compound, "人民路3号"), place)


def labelled_levels(rng: random.Random, place: Place) -> Case:
    labels = rng.choice((("省：", " 市：", " 区：", " 详细地址："), ("省份:", ",城市:", ",区县:", ",地址:")))
    parts = (place.province, place.city, place.district, "人民路3号")
    text = "".join(label + part for label, part in zip(labels, parts, strict=True) if part)
    return Case(Recipient(name="王芳", phone="13912345678", street=text), place)


def spaced(rng: random.Random, place: Place) -> Case:
    text = " ".join(_text(place, "", "人民路3号").street)
    return Case(Recipient(name="王芳", phone="13912345678", street=text), place)


def municipality(rng: random.Random, place: Place) -> Case | None:
    """As JD writes them: municipality, district, area."""
    if place.province != place.city or place.province[:2] not in ("北京", "天津", "上海", "重庆"):
        return None
    area = rng.choice(("城区", "四环到五环之间", "三环以内", "全境", "郊区", "外环以内", "城关镇"))
    told = {"province": place.province[:2], "city": place.district, "district": area}
    return Case(Recipient(name="王芳", phone="13912345678", street="人民路3号", **told), place)


def district_told(rng: random.Random, place: Place) -> Case:
    return Case(_fields(place, "人民路3号"), place)


def full_text(rng: random.Random, place: Place) -> Case:
    return Case(_text(place, "", "人民路3号"), place)


def bare_short_name(rng: random.Random, place: Place) -> Case | None:
    """A short name of several places that lie in none of each other says nothing."""
    name = _short(place)
    meant = list(gazetteer().names[name])
    if any(each.shares_line(other) for each in meant for other in meant if each != other) or len(meant) < 2:
        return None
    return Case(Recipient(name="王芳", phone="13912345678", street=f"{name}人民路5号"), None)


def bare_zone(rng: random.Random, place: Place) -> Case:
    """A municipality, then the development zone of another city."""
    first = rng.choice(("天津", "北京", "上海", "重庆"))
    within = {name for name, meant in gazetteer().names.items() if any(each.province[:2] == first for each in meant)}
    other = rng.choice([each for each in cities() if _short(each) not in within])
    return Case(Recipient(name="王芳", phone="13912345678", street=f"{first}{_short(other)}开发区云鹏道3号"), None)


def postcode_in_text(rng: random.Random, place: Place) -> Case:
    return Case(_text(place, rng.choice(("", "246000 ")), rng.choice(("人民路3号 246000", "人民路3号"))), place)


SWEEPS: tuple[Callable[[random.Random, Place], Case | None], ...] = (
    company_before, city_named_shop_in_street, wrong_short_place_in_street, wrong_full_place_in_street,
    wrong_district_in_street, town_of_another_district, own_town, twin, vague_street, foreign, pinyin, compound_before,
    labelled_levels, spaced, municipality, district_told, full_text, bare_short_name, bare_zone, postcode_in_text,
)  # fmt: skip


def held(found: Recipient) -> bool:
    return bool(cleansing.validation_holds(an_order(recipient=found), Policy(), AT))


def sweep(make: Callable[[random.Random, Place], Case | None], places: list[Place], seed: int = 13) -> Result:
    """Cleanse one form of address for each place, and count."""
    rng = random.Random(seed)
    count = wrong = holds = 0
    examples: list[str] = []
    for case in filter(None, (make(rng, place) for place in places)):
        found = cleansing.recipient(case.recipient)
        on_hold, truth = held(found), case.truth
        right = truth is not None and (found.province, found.city, found.district) == truth[1:]
        count += 1
        wrong += not on_hold and not right
        holds += on_hold and truth is not None
        if (not on_hold and not right) or (on_hold and truth is not None):
            mark = "held" if on_hold else "WRONG"
            examples.append(f"{mark} {'|'.join(filter(None, case.recipient.address))} -> {found.region} {found.doubt}")
    return Result(count, wrong, holds, tuple(sorted(examples)[:5]))


def sample(size: int, seed: int = 13) -> list[Place]:
    return random.Random(seed).sample(districts(), size)


def run(places: list[Place], seed: int = 13) -> Iterator[tuple[str, Result]]:
    for make in SWEEPS:
        yield make.__name__, sweep(make, places, seed)


def report() -> dict[str, Any]:
    """Return the results of every sweep over every district."""
    return {name: result._asdict() for name, result in run(districts())}

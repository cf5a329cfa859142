"""The administrative divisions of China and all their names.

Each line of ``divisions.txt``: GB/T 2260 code, name, towns. Each line of ``renamed.tsv``: former parent, former name,
present code or codes. ``SOURCES.md`` beside them describes how both were made, and their licences.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import lru_cache
from importlib.resources import files
from itertools import chain
from typing import NamedTuple

_MUNICIPALITIES = frozenset({"11", "12", "31", "50", "81", "82"})
"""Provinces that are their own city: the four municipalities, Hong Kong and Macau."""
_PEOPLES = (
    "维吾尔|壮族|回族|蒙古族?|哈萨克族?|柯尔克孜族?|塔吉克|锡伯|朝鲜族|满族|藏族|羌族|彝族|白族|傣族|景颇族|傈僳族|独龙族|怒族|哈尼族|拉祜族|佤族|"
    "布朗族|纳西族|普米族|苗族|侗族|布依族|水族|仡佬族|土家族|瑶族|毛南族|仫佬族|各族|黎族|畲族|土族|撒拉族|东乡族|保安族|裕固族|达斡尔族"
)
_SUFFIX = re.compile(
    rf"(?<=..)((特别行政区|自治区|自治州|自治县|自治旗)|((?<=..)({_PEOPLES}))+(自治区|自治州|自治县|自治旗)"
    r"|地区|林区|特区|新区|省|市|县|区|盟|旗)$"
)
_TOWN = re.compile(r"(?<=..)(街道|镇|乡|苏木)$")

_ALIASES = {
    "110000": "京 燕京 北平",
    "120000": "津",
    "130000": "冀",
    "140000": "晋",
    "150000": "蒙 内蒙",
    "210000": "辽",
    "310000": "沪 申城",
    "320000": "苏",
    "330000": "浙",
    "340000": "皖",
    "350000": "闽",
    "360000": "赣",
    "370000": "鲁",
    "410000": "豫",
    "420000": "鄂",
    "430000": "湘",
    "440000": "粤",
    "450000": "桂 广西省",
    "460000": "琼",
    "500000": "渝",
    "510000": "川 蜀",
    "520000": "黔 贵",
    "530000": "滇",
    "540000": "藏 西藏省",
    "610000": "陕 秦",
    "620000": "甘 陇",
    "630000": "青",
    "640000": "宁 宁夏省",
    "650000": "新 新疆省",
    "710000": "台",
    "810000": "港 香港岛 九龙 新界",
    "820000": "澳 澳门半岛",
    "150724": "鄂温克 鄂温克旗",
    "152500": "锡盟",
    "152900": "阿盟",
    "320100": "金陵",
    "330100": "杭城",
    "350200": "鹭岛",
    "440100": "穗 羊城",
    "440300": "鹏城",
    "510100": "蓉城",
    "522300": "黔西南",
    "522600": "黔东南",
    "522700": "黔南",
    "130600": "雄安 雄安新区",
    "330200": "杭州湾新区 前湾新区",
    "440400": "横琴 横琴新区",
    "441300": "大亚湾 大亚湾区",
    "520100": "贵安 贵安新区",
    "622926": "东乡 东乡县",
    "652700": "博州",
    "652800": "巴州",
    "653000": "克州",
}
"""Common names that cannot be derived by dropping a suffix. A name of one character counts only alone in its field."""


class Place(NamedTuple):
    """A province, city or district; the levels below it are empty. The code is of the smallest level that has one."""

    code: str
    province: str
    city: str = ""
    district: str = ""

    @property
    def level(self) -> int:
        return 3 if self.district else 2 if self.city else 1

    @property
    def name(self) -> str:
        return self.district or self.city or self.province

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self[1:] if name)

    @property
    def parent(self) -> "Place | None":
        top = f"{self.code[:2]}0000"
        if self.district:
            return self._replace(code=top if self.city == self.province else f"{self.code[:4]}00", district="")
        return None if self.city in ("", self.province) else Place(top, self.province)

    def holds(self, other: "Place") -> bool:
        """Whether the other place lies in this one or equals it."""
        return (
            self.province == other.province and self.city in ("", other.city) and self.district in ("", other.district)
        )

    def shares_line(self, other: "Place") -> bool:
        """Whether one place lies in the other or equals it."""
        return self.holds(other) or other.holds(self)

    def shares(self, other: "Place") -> int:
        """Return how many levels both places share, from the province down."""
        same = 0
        for mine, its in zip(self[1:], other[1:], strict=True):
            if not mine or mine != its:
                break
            same += 1
        return same


class Form(IntEnum):
    """The form of a name; a higher value is stronger evidence."""

    SHORT = 1
    """Without its suffix: 南山."""
    OLD = 2
    """A former name: 闸北区."""
    FULL = 3


class Name(NamedTuple):
    place: Place
    form: Form
    split: bool = False
    """The former division is now part of several."""


class Gazetteer:
    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.names: dict[str, dict[Place, Name]] = defaultdict(dict)
        self.moved: dict[tuple[str, str], list[Place]] = {}
        """Present places of a division, by its former parent's name and its own former name."""
        self.below: dict[Place, list[Place]] = defaultdict(list)
        self._towns: dict[Place, str] = {}
        short = list(self._divisions())
        for place, name in short:
            self._name(name, place, Form.SHORT)
        self._renamed()
        for code, names in _ALIASES.items():
            if code in self.places:
                for name in names.split():
                    self._name(name, self.places[code], Form.SHORT)
        self.lengths: dict[str, tuple[int, ...]] = _lengths(self.names)
        self.characters = frozenset(chain.from_iterable((*self.names, *self._towns.values())))

    def at(self, text: str, start: int) -> Iterator[str]:
        """Yield the names of two characters or more that begin at this position, the longest first."""
        for length in self.lengths.get(text[start : start + 2], ()):
            name = text[start : start + length]
            if name in self.names:
                yield name

    @lru_cache(8192)  # noqa: B019
    def towns(self, place: Place) -> dict[str, tuple[Place, ...]]:
        """Return the towns of a district, or of all districts of a city, with the places that have each."""
        towns: dict[str, tuple[Place, ...]] = {}
        for each in (place, *self.below[place]):
            for town in self._towns.get(each, "").split():
                towns[town] = (*towns.get(town, ()), each)
        return towns

    def _divisions(self) -> Iterator[tuple[Place, str]]:
        province = city = Place("", "")
        for line in _lines("divisions.txt"):
            code, name, *rest = line.split(" ", 2)
            towns = rest[0] if rest else ""
            if code.endswith("0000") and code != province.code:
                province = city = Place(code, name, name if code[:2] in _MUNICIPALITIES else "")
                place = province
            elif code.endswith("0000"):
                place = city = province if name == province.city else Place(code, province.province, name)
                for district in towns.split():
                    yield from self._add(place._replace(district=district), district)
                towns = ""
            elif code.endswith("00"):
                place = city = Place(code, province.province, name)
            elif code[:2] in _MUNICIPALITIES or code[:4] == city.code[:4]:
                place = Place(code, province.province, province.city or city.city, name)
            else:
                place = Place(code, province.province, name)
            if towns:
                self._towns[place] = towns
            yield from self._add(place, name)

    def _add(self, place: Place, name: str) -> Iterator[tuple[Place, str]]:
        known = place in self.names.get(name, {})
        self._name(name, place, Form.FULL)
        self.places.setdefault(place.code, place)
        if place.parent and not known:
            self.below[place.parent].append(place)
        for short in _shorter(name):
            yield place, short

    def _name(self, name: str, place: Place, form: Form, split: bool = False) -> None:
        known = self.names[name].get(place)
        if known is None or known.form < form:
            self.names[name][place] = Name(place, form, split)

    def _renamed(self) -> None:
        current = frozenset(self.names)
        for line in _lines("renamed.tsv"):
            within, name, codes = line.split("\t")
            places = [self.places[code] for code in codes.split(",")]
            self.moved[within, name] = places
            if all(place.name == name for place in places):
                continue
            for place in places:
                self._name(name, place, Form.OLD, len(places) > 1)
                for short in _shorter(name):
                    if short not in current:
                        self._name(short, place, Form.OLD, len(places) > 1)


def _shorter(name: str) -> Iterator[str]:
    """Yield the name without suffix and ethnic names, and with 自治州, 自治县 and 自治旗 shortened to 州, 县 and 旗."""
    short = _SUFFIX.sub("", name)
    if short != name:
        yield short
        if ending := re.search(r"自治(州|县|旗)$", name):
            yield short + ending[1]


def _lengths(names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the lengths of the names, longest first, by their first two characters."""
    lengths: dict[str, set[int]] = defaultdict(set)
    for name in names:
        if len(name) > 1:
            lengths[name[:2]].add(len(name))
    return {begin: tuple(sorted(each, reverse=True)) for begin, each in lengths.items()}


def _lines(file: str) -> list[str]:
    return files("activities.cleansing").joinpath(file).read_text("utf-8").splitlines()


@lru_cache(1)
def gazetteer() -> Gazetteer:
    """Return the gazetteer, loaded once per process."""
    return Gazetteer()

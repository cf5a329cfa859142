"""Addresses in China: parse a text from left to right, name by name, as a chain of divisions followed by the detail.

Every possible parse is followed and scored; different places with the same score are ambiguous. A confident parse
of the original text is accepted at once. Otherwise the text is also parsed in simplified characters, with pinyin and
English translated to Chinese, and with its parts reversed. Misspelt names are matched within each parse.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from babel import Locale

from activities.cleansing import spelling
from activities.cleansing.gazetteer import Form, Name, Place, gazetteer
from models.address import Recipient

SURE = Decimal(1)
_CONFIDENCE = {
    "": SURE,
    "hold.address.noise": Decimal("0.95"),
    "hold.address.renamed": Decimal("0.95"),
    "hold.address.town": Decimal("0.9"),
    "hold.address.implied": Decimal("0.9"),
    "hold.address.romanised": Decimal("0.9"),
    "hold.address.landmark": Decimal("0.9"),
    "hold.address.zone": Decimal("0.85"),
    "hold.address.misspelt": Decimal("0.85"),
    "hold.address.no_district": Decimal("0.8"),
    "hold.address.unread": Decimal("0.7"),
    "hold.address.split": Decimal("0.7"),
    "hold.address.vague": Decimal("0.6"),
    "hold.address.similar": Decimal("0.6"),
    "hold.address.contradiction": Decimal("0.5"),
    "hold.address.ambiguous": Decimal("0.3"),
    "hold.address.unknown": Decimal("0.2"),
}
"""The confidence in an address by its doubt."""

_LONGEST = 200
"""Maximum characters of a field of a recipient."""

_EDGE = "\n"
"""Separates the original fields: no name spans it."""
_BETWEEN = re.compile(r"(?:[\s,，.。、;；:：/|\\\-—_·>()（）]|中华人民共和国|(?:新疆)?(?:生产建设)?兵团|中国(?=.))*")
_FILLER = re.compile(
    r"(?<=\n)(?:(?:北京|天津|上海|重庆)(?:城区|郊区|郊县)|市辖区|市辖县|县|省直辖县级行政区划|自治区直辖县级行政区划|省直辖行政单位|省直辖|直辖县级|其它区?|其他区?|无|不详|-)(?=\n)"
)
"""Placeholders for an empty field."""
_NOT_A_PLACE = re.compile(
    r"[东西南北中前后新老上下内外一二三四五六七八九环]{0,2}(?:路|街(?!道)|大街|大道|道(?!里|外)|巷|弄|胡同|桥|站|机场|大厦|大楼|广场|公园|花园|花苑|"
    r"小区|新村|公寓|宾馆|酒店|饭店|大学|学院|中学|小学|医院|银行|商场|百货|市场|公馆|银座|会馆|公司|集团|立交|高速|湾|湖|山庄|人家|名苑|家园|豪庭)"
)
"""Suffixes that make the preceding name that of a street or building."""
_ZONE = re.compile(
    r"[\u4e00-\u9fff]{0,8}?(?:高新技术产业(?:开发|园)?区|高新技术开发区|经济技术开发区|经济开发区|新?技术开发区|高新(?:产业)?开发区|开发区|高新区|"
    r"经开区|工业园区|产业园区|工业区|新区|新城区?|保税区|度假区|示范区|风景区|管委会|管理区|实验区|西咸新区)"
)
"""Development zones: not in the standard. They lie within districts, but are often written in place of one."""
_BUSINESS = re.compile(
    r"[\u4e00-\u9fff]{0,4}?(?:店|馆|铺|超市|小吃|拉面|牛肉面|米粉|烧饼|火锅|特产|土菜|酒家|餐厅|商会|同乡会|办事处|批发部)"
)
"""Businesses named after a place that need not be there: 沙县小吃, 兰州牛肉面馆."""
_OWN_ZONE = re.compile(r"(?:经济技术|经济|高新技术?|技术)?(?:产业)?(?:开发区|高新区|经开区|工业园区|新区)")
"""A zone that bears the name of the place before it: 廊坊开发区."""
_VAGUE = re.compile(
    r"附近|周边|周围|旁边|对面|对过|隔壁|一带|左右|那边|这边|边上|不远|某处|路口|[前后里旁][头面]|门[口前]|楼[上下]|[同如]上|原地址|上次|老地方"
)
_EXACT = re.compile(r"\d|[零一二三四五六七八九十百]+[号栋幢楼室]")
_MASKED = re.compile(r"[×✕╳＊*xX?？]{2,}")
_REMARK = re.compile(
    r"货到付款|到付|(?:请|先)?(?:打|致)?电话(?:联系)?|联系|放(?:在|到)?|门卫|保安室?|前台|物业|丰巢|快递[柜点]|菜鸟|驿站|自提[点柜]?|代收点?|自取|"
    r"家里|公司|单位|学校|宿舍|不详|未知|暂无|待定|测试|谢谢|请|尽快|发货|test|same as before|as before|none|null|n/?a",
    re.IGNORECASE,
)
"""Remarks and words that name no place by themselves."""
_NUMBERED = re.compile(r"[\d零一二三四五六七八九十百]\s*[号號栋幢楼室组队层单弄]")
_SITE = re.compile(
    r"\d|[零一二三四五六七八九十百]+[号栋幢楼室组队]|(?<=[\u4e00-\u9fff])(?:[路街道巷弄村屯庄寨组队区苑园城府里湾沟店厂所院校部局馆楼站场市学会行铺吧家居"
    r"郡邸墅堡港岛山河湖桥塔寺庙坝坪坡冲岗岭营堂关口台矿井林仓库宅座司团处社厦室亭阁轩庭坊滩洲塘圩浦桥墩洞窑埠])|中心|大厦|胡同|基地"
)
"""What a carrier can look for: a number, or a noun of a road, settlement or building after its name."""
_DIVISION = re.compile(r"[省县州]|(?<![小社校厂园院景辖])区|(?<![超城都门])市(?!场|民|政)|[A-Za-z]{2}|\d{7}")
"""Signs of a division, a name in Latin letters or a number in words before the address."""
_TOWN_END = re.compile(r"街道|镇|乡")
_WORD_MADE_OF_CITY = re.compile(r"[场民政立]")
"""Characters that continue 市 to another word: 新乡市场."""
_AREA = re.compile(r"(?:.*[环里]|.*之间|.*以[内外]|.*区域|城区|郊区|市区|全境|全部|县城|城关镇?|其[他它]区?|-|无)?")
"""Areas by which marketplaces divide the districts of municipalities; not in the standard."""
_LABELLED = re.compile(
    r"(?:(?<=^)|(?<=[\s,，;；、/|]))(?:省份?|直辖市|城市|地级市|市|区/县|县/区|区县|县区|区|县|乡镇|镇|街道/?(?:乡镇)?|邮编\s*[:：]\s*\d{6}|邮编)"
    r"\s*[:：]?(?:(?<=[:：])|(?<=\d{6}))\s*"
)
"""Labels before the levels of an address: ``省：安徽省 市：安庆市``."""
_OFFICE = re.compile(r"(?<=..)(?:街道办事处|街道办|街办)$")
_LONGEST_TOWN = 16
_REACH = 24
"""How many characters past the parsed divisions to search for a district."""
_IN_FIELD = 0.5
"""Bonus for a name in the field of its own level."""
_REPEATED = 0.5
"""Bonus for repeating a known division."""
_LEVEL = 0.1
"""Penalty for each level of a division: 吉林 means the province before the city."""
_LATER = 0.02
"""Penalty for each further successor of a split division, after the largest."""
_CONTRADICTION, _UP, _SHARED = 5, 3, 2
"""Penalty for a contradicting place, raised by each level up, lowered by each level that both share."""
_GENERIC = frozenset({"城区", "郊区", "矿区", "东区", "西区", "南区", "北区", "中区", "市区", "新区"})
"""District names that are meaningless without a city."""


class Reading(NamedTuple):
    """A parsed address. ``place`` is ``None`` if no division was recognised."""

    place: Place | None
    town: str
    detail: str
    doubt: str

    @property
    def confidence(self) -> Decimal:
        return _CONFIDENCE[self.doubt]


class _Trail(NamedTuple):
    """The state of one partial parse."""

    at: int
    place: Place | None
    score: float
    doubts: tuple[str, ...] = ()
    kept: str = ""
    """Skipped text that belongs to the detail."""


def cleansed(person: Recipient) -> dict[str, object]:
    """Return the fields of a Chinese address to change, with the outcome of cleansing."""
    place, town, detail, doubt = _read(person)
    if len(detail) > _LONGEST:
        doubt = "hold.address.unread"
    if place is None or len(detail) > _LONGEST:
        return {"confidence": _CONFIDENCE[doubt], "doubt": doubt}
    parts = (place.province, place.city, place.district, town, detail)
    names = dict(zip(("province", "city", "district", "town", "street"), parts, strict=True))
    return {**names, "division": place.code, "confidence": _CONFIDENCE[doubt], "doubt": doubt}


def _read(person: Recipient) -> Reading:
    """Return the reading with the highest confidence."""
    parts = _municipal(_plain(person.address))
    *divisions, town, street = parts
    place = None if town or _has_divisions(street) else _known(*divisions)
    if place:
        return _finish(place, "", street, ("hold.address.contradiction",) if _contradicted(street, place) else ())
    if _abroad(parts):
        return Reading(None, "", _joined(_EDGE.join(parts)), "hold.address.unknown")
    best = _reading(parts)
    if best.confidence < _CONFIDENCE["hold.address.renamed"]:
        others = [(each, "") for each in spelling.simplified(parts)]
        others += [(each, "hold.address.romanised") for each in spelling.chinese(parts)]
        if parts != (swapped := _reversed_parts(parts)):
            others.append((swapped, ""))
        best = max(best, *(_reading(each, doubt) for each, doubt in others), key=_confidence) if others else best
    if town and not best.town:
        best = best._replace(town=town, detail=best.detail.removeprefix(town).strip())
    return best


def _plain(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parts without labels of levels in the street and without spaces between all its characters."""
    *fields, street = parts
    if ":" in street or "：" in street:
        street = _LABELLED.sub(" ", street).strip()
    if len(street) > 10 and len(re.findall(r"[\u4e00-\u9fff](?= [\u4e00-\u9fff])", street)) * 3 > len(street):
        street = street.replace(" ", "")
    return (*fields, street)


def _municipal(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parts of a municipality, district and area in standard form."""
    province, city, area, town, street = parts
    district = _known(province, province, city) if province and city and area else None
    if district is None or district.city != district.province:
        return parts
    if area in (city, district.district) or _AREA.fullmatch(area):
        area = ""
    elif _known(province, province, area):
        return parts
    elif (found := _town_at(area, 0, district)) and found[0] == len(area) and not town:
        town, area = found[1], ""
    return district.province, district.city, district.district, town, f"{area} {street}".strip()


@lru_cache(1)
def _countries() -> re.Pattern[str]:
    names = (name for code, name in Locale("zh").territories.items() if len(code) == 2 and code.isalpha())
    own = ("中国", "台湾", "香港", "澳门")
    return re.compile("|".join(re.escape(name) for name in names if len(name) > 1 and not name.startswith(own)))


def _abroad(parts: Sequence[str]) -> bool:
    """Whether a part begins with the name of another country."""
    found = (_countries().match(part) for part in parts)
    return any(each and not _NOT_A_PLACE.match(each.string, each.end()) for each in found)


def _contradicted(text: str, place: Place) -> bool:
    """Whether the text names a division or town that lies elsewhere.

    A name counts with its suffix, or if a division, town or zone of it follows: a city name in that of a street,
    building or company says nothing. A name within a longer one does not count.
    """
    at = 0
    while at < len(text):
        name = next(gazetteer().at(text, at), "")
        if name and _names_elsewhere(text, at, name, place) and not _town_at(text, at, place):
            return True
        at += len(name) or 1
    return _town_elsewhere(text, place)


def _names_elsewhere(text: str, at: int, name: str, place: Place) -> bool:
    named, end = gazetteer().names[name].values(), at + len(name)
    if any(place.shares_line(each.place) for each in named) or any(True for _ in _formerly(place, name)):
        return False
    if any(place in gazetteer().moved.get((name, below), ()) for below in place.names):
        return False
    if any(_followed_by_division(text, end, each.place) for each in named):
        return True
    if name in _GENERIC or _NOT_A_PLACE.match(text, end) or _BUSINESS.match(text, end):
        return False
    if all(each.form is Form.SHORT for each in named) and not (len(name) > 2 and name[-1] in "县旗"):
        whole = text[at - 1 : at] == _EDGE and text[end : end + 1] == _EDGE
        return whole or (_OWN_ZONE.match(text, end) is not None and any(each.place.level < 3 for each in named))
    return name[-1] in "省市区县州盟旗" and not (name[-1] == "市" and _WORD_MADE_OF_CITY.match(text, end))


def _followed_by_division(text: str, at: int, place: Place) -> bool:
    """Whether a smaller division or a town of the place follows, and not a street or building named after it."""
    for name in gazetteer().at(text, at):
        below = any(place.holds(each) and place != each for each in gazetteer().names[name])
        if below and not _NOT_A_PLACE.match(text, at + len(name)):
            return True
    town = _town_at(text, at, place)
    return town is not None and _TOWN_END.search(town[1]) is not None


def _town_elsewhere(text: str, place: Place) -> bool:
    """Whether the text names a town that only other districts of the city have."""
    if not place.district or not place.parent:
        return False
    own, towns = gazetteer().towns(place), gazetteer().towns(place.parent)
    for ending in _TOWN_END.finditer(text) if own else ():
        for begin in range(max(ending.end() - _LONGEST_TOWN, 0), ending.start()):
            town = text[begin : ending.end()]
            if town in towns:
                if town not in own and not _NOT_A_PLACE.match(text, ending.end()):
                    return True
                break
    return False


def _reversed_parts(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Reverse a comma-separated free text, in case it starts with the street and ends with the province."""
    *fields, street = parts
    segments = re.split(r"\s*[,，]\s*", street)
    return (*fields, " ".join(reversed(segments))) if len(segments) > 2 and not any(fields) else parts


def _confidence(reading: Reading) -> Decimal:
    return reading.confidence


@lru_cache(4096)
def _known(province: str, city: str, district: str) -> Place | None:
    """Return the place that the three fields name exactly, each by its full or short name, else ``None``."""
    for name in gazetteer().names.get(district or city, {}).values():
        place = name.place
        if name.form is Form.OLD or (place.district and not district) or len(place.names) < 2:
            continue
        above = (place.province, place.city) if district else (place.province,)
        given = (province, city) if district else (province,)
        if all(
            each == full or any(up.name == full and up.holds(place) for up in _named(each))
            for each, full in zip(given, above, strict=True)
        ) and (place.district or not gazetteer().below[place]):
            return place
    return None


def _named(name: str) -> Iterator[Place]:
    return (each.place for each in gazetteer().names.get(name, {}).values() if each.form is not Form.OLD)


def _has_divisions(street: str) -> bool:
    """Whether the street starts with a division, or contains a phone or a labelled field."""
    return any(True for _ in gazetteer().at(street, 0)) or bool(re.search(r"1[3-9]\d{9}|[:：]", street))


def _reading(parts: Sequence[str], doubt: str = "") -> Reading:
    *fields, street = parts
    text = _EDGE + _EDGE.join(parts)
    text = _FILLER.sub(lambda filler: "-" * len(filler[0]), text)
    levels = _levels(fields)
    begin, trails = _first_divisions(text, levels)
    trails = [on for trail in trails for on in _find_district(text, trail, levels)]
    scored = [(trail.score + _town_bonus(text, trail), trail) for trail in trails]
    top = max((score for score, _ in scored), default=0.0)
    best = [trail for score, trail in scored if score > top - 0.01]
    if not best:
        return Reading(None, "", _joined(text), "hold.address.unknown")
    trail = max(best, key=lambda each: (each.at, -_level(each.place)))
    place, at, doubts = trail.place, trail.at, [doubt, *trail.doubts]
    if place and _contradicted(text, place):
        doubts.append("hold.address.contradiction")
    if place and _says_nothing(text, begin, at, place):
        doubts.append("hold.address.ambiguous")
    rivals = [each.place for each in best if each.place and place and not each.place.shares_line(place)]
    if place and rivals:
        doubts.append("hold.address.ambiguous")
        place = _common(place, rivals)
        at = _after(text, begin, place)
    if place is None:
        return Reading(None, "", _joined(text), "hold.address.ambiguous")
    before = _joined(text[:begin])
    if before and spelling.nearest(before, [place, *_above(place)]):
        before = ""
        doubts.append("hold.address.misspelt")
    elif before:
        doubts.append("hold.address.unread" if _DIVISION.search(_without_names(before)) else "hold.address.noise")
    left = _joined(text[at : len(text) - len(street)]).removesuffix(fields[-1])
    if left and street and not trail.kept and not ((town := _town_at(left, 0, place)) and town[0] == len(left)):
        doubts.append("hold.address.unread")
    return _finish(place, before + trail.kept, _joined(text[at:]), doubts)


def _says_nothing(text: str, begin: int, at: int, place: Place) -> bool:
    """Whether the reading rests on one short name that several places have, or that a number makes a compound's."""
    name = text[begin:at]
    named = gazetteer().names.get(name, {})
    whole = text[begin - 1] == _EDGE and text[at : at + 1] in ("", _EDGE)
    if whole or place not in named or named[place].form is not Form.SHORT:
        return False
    if text[at : at + 1].isdigit():
        return True
    return not all(place.shares_line(each) for each in named) and not _town_at(text, _skip(text, at), place)


def _without_names(text: str) -> str:
    """Return the text without the names of divisions."""
    left, at = "", 0
    while at < len(text):
        name = next(gazetteer().at(text, at), "")
        left += "" if name else text[at]
        at += len(name) or 1
    return left


def _level(place: Place | None) -> int:
    return place.level if place else 0


def _above(place: Place) -> Iterator[Place]:
    while place.parent:
        place = place.parent
        yield place


def _after(text: str, begin: int, place: Place | None) -> int:
    """Return where the detail begins after the names of the place; names of uncertain divisions stay in the detail."""
    at = begin
    while place:
        at = _skip(text, at)
        name = next(
            (name for name in gazetteer().at(text, at) if any(each.holds(place) for each in _named(name))), None
        )
        if name is None:
            return at
        at += len(name)
    return at


def _common(place: Place, others: Iterable[Place]) -> Place | None:
    """Return the smallest division that contains all of them."""
    common: Place | None = place
    while common and not all(common.holds(each) for each in others):
        common = common.parent
    return common


def _levels(fields: Sequence[str]) -> dict[int, int]:
    """Return the level expected of each field, by the position where the field begins."""
    at, levels = 1, {}
    for level, field in enumerate(fields, 1):
        levels[at] = level
        at += len(field) + 1
    return levels


def _skip(text: str, at: int) -> int:
    while (end := _BETWEEN.match(text, at).end()) > at:  # type: ignore[union-attr]
        at = end
    return at


def _first_divisions(text: str, levels: dict[int, int]) -> tuple[int, list[_Trail]]:
    """Return where the divisions begin, perhaps after a name, phone or other words, and every parse from there.

    Of several beginnings the one with the best parse counts: a company may be named after another place.
    """
    start = _skip(text, 0)
    best, top = (start, _parses(text, start, levels)), 0.0
    top = max((trail.score for trail in best[1]), default=0.0)
    at = max((trail.at for trail in best[1]), default=start + 1)
    while at < min(len(text), start + 60):
        loose = not text[at - 1].isalnum() or text[at - 1].isascii()
        name = next(gazetteer().at(text, at), "")
        named = gazetteer().names[name].values() if name else ()
        clear = any(each.form is not Form.SHORT and each.place.level < 3 for each in named)
        if clear or (loose and name and (_sole(name) or any(each.place.level < 3 for each in named))):
            trails = _parses(text, at, levels)
            score = max((trail.score for trail in trails), default=0.0)
            if score > top:
                best, top = (at, trails), score
        at += len(name) or 1
    if best[1]:
        return best
    everywhere = [place for place in gazetteer().places.values() if place.level < 3]
    return start, [
        on
        for end, place, doubt in _misspelt(text, start, everywhere, levels)
        for on in _continuations(text, _Trail(end, place, 1.0, (doubt,)), levels)
    ]


def _parses(text: str, at: int, levels: dict[int, int]) -> list[_Trail]:
    return [trail for trail in _continuations(text, _Trail(at, None, 0.0), levels) if trail.place]


def _sole(name: str) -> bool:
    """Whether this is the full name of exactly one place."""
    named = gazetteer().names[name]
    return len(named) == 1 and all(each.form is not Form.SHORT for each in named.values())


def _continuations(text: str, start: _Trail, levels: dict[int, int]) -> list[_Trail]:
    """Return every continuation of a parse, the best for each position and place."""
    best: dict[tuple[int, Place | None], _Trail] = {}
    ahead = [start]
    while ahead:
        trail = ahead.pop()
        known = best.get((trail.at, trail.place))
        if known and known.score >= trail.score:
            continue
        best[trail.at, trail.place] = trail
        at = _skip(text, trail.at)
        end = text.find(_EDGE, at)
        names = list(gazetteer().at(text, at))
        if at in levels and end - at == 1 and text[at] in gazetteer().names:
            names.append(text[at])
        for name in names:
            ahead += _extend(text, trail, name, at, levels)
            if trail.place and _repeats(name, trail.place):
                break
    return list(best.values())


def _repeats(name: str, here: Place) -> bool:
    """Whether this is the full name of the place or of one above it, and so says nothing of a smaller one."""
    return any(each.form is Form.FULL and each.place.holds(here) for each in gazetteer().names[name].values())


def _extend(text: str, trail: _Trail, name: str, at: int, levels: dict[int, int]) -> Iterator[_Trail]:
    """Extend the parse by one name, for each place that the name may mean."""
    end, here = at + len(name), trail.place
    whole = text[at - 1] == _EDGE and text[end : end + 1] in ("", _EDGE)
    level = levels.get(at) if whole else None
    street = not whole and _NOT_A_PLACE.match(text, end) is not None and _ZONE.match(text, end) is None
    named = list(gazetteer().names[name].values())
    repeats = here is not None and _repeats(name, here) and "hold.address.renamed" not in trail.doubts
    if here and repeats:
        named = [each for each in named if each.place.holds(here)]
    agreeing = [each for each in named if here and here.shares_line(each.place)]
    formerly = () if repeats else _formerly(here, name)
    agreeing += [each for each in formerly if not any(each.place == other.place for other in agreeing)]
    for rank, (place, form, split) in enumerate(agreeing or named):
        if street and (form is Form.SHORT or text[end] in "路街") and not _division_at(text, end, place):
            continue
        if name in _GENERIC and place.level == 3 and (here is None or here.level < 2):
            continue
        apart = whole or form is not Form.SHORT or _stands_alone(text, end, here or place)
        if here and place.holds(here):
            if apart:
                yield trail._replace(at=end, score=trail.score + _REPEATED)
            continue
        doubts = list(trail.doubts)
        unplaced = here is None and place.level == 3
        weight = Form.FULL if unplaced and form is Form.OLD else form
        score = trail.score + len(name) + weight + _IN_FIELD * (place.level == level)
        score -= place.level * _LEVEL + split * rank * _LATER
        if here and not agreeing:
            close = trail.at == at or text[at - 1] in "\n ,，"
            if "hold.address.contradiction" in doubts or (not whole and (form is Form.SHORT or not close)):
                continue
            doubts.append("hold.address.contradiction")
            score += here.shares(place) * _SHARED - max(here.level - place.level, 0) * _UP - _CONTRADICTION
        if form is Form.OLD:
            doubts.append("hold.address.split" if split else "hold.address.renamed")
        elif unplaced:
            doubts.append("hold.address.implied")
        if not apart and place.level == 3:
            doubts.append("hold.address.landmark")
        yield _Trail(end, place, score, tuple(doubts), trail.kept if apart else trail.kept + name)


def _formerly(here: Place | None, name: str) -> Iterator[Name]:
    """Yield the present places of divisions that once had this name and lay within this place."""
    for above in here.names if here else ():
        places = gazetteer().moved.get((above, name), [])
        yield from (Name(place, Form.OLD, len(places) > 1) for place in places)


def _division_at(text: str, at: int, place: Place) -> bool:
    """Whether a division or town of the place begins at this position."""
    within = (each.place for name in gazetteer().at(text, at) for each in gazetteer().names[name].values())
    return any(place.holds(each) for each in within) or _town_at(text, at, place) is not None


def _stands_alone(text: str, end: int, place: Place) -> bool:
    """Whether the name is a word of its own: a gap, a smaller division or the end of the text follows."""
    return end == len(text) or _skip(text, end) > end or _division_at(text, end, place)


def _find_district(text: str, trail: _Trail, levels: dict[int, int]) -> Iterator[_Trail]:
    """Look for a missing district: after a zone, by its town, misspelt, or further on in the text."""
    yield trail
    place = trail.place
    if place is None or place.level == 3 or (place.level == 2 and not gazetteer().below[place]):
        return
    at = _skip(text, trail.at)
    for end, found, doubt in _misspelt(text, at, gazetteer().below[place], levels):
        after = _Trail(end, found, trail.score + end - at, (*trail.doubts, doubt), trail.kept)
        for on in _continuations(text, after, levels):
            yield from _find_district(text, on, levels)
    if zone := _ZONE.match(text, at):
        doubts = (*trail.doubts, "hold.address.zone")
        behind = _Trail(zone.end(), place, trail.score + 0.1, doubts, trail.kept + zone[0])
        for on in _continuations(text, behind, levels):
            yield on if on.place != place else on._replace(score=trail.score + 0.2)
        yield from _district_by_town(text, behind)
        return
    if by_town := list(_district_by_town(text, trail)):
        yield from by_town
        return
    stop, within = min(len(text), at + _REACH), 0
    for begin in range(at, stop):
        names = [name for name in gazetteer().at(text, begin) if begin + len(name) > within]
        within = max(within, begin + len(names[0])) if names else within
        for name in names if begin > at else ():
            for each in gazetteer().names[name].values():
                inside = each.place.level == 3 and place.holds(each.place) and each.form is Form.FULL
                if inside and not _NOT_A_PLACE.match(text, begin + len(name)):
                    doubts = (*trail.doubts, "hold.address.landmark")
                    yield _Trail(trail.at, each.place, trail.score + len(name), doubts, trail.kept)


def _district_by_town(text: str, trail: _Trail) -> Iterator[_Trail]:
    """Extend the parse to the district, if exactly one district of the city has the town that follows."""
    place = trail.place
    town = _town_at(text, _skip(text, trail.at), place) if place and place.level == 2 else None
    if town and len(town[2]) == 1:
        yield trail._replace(
            place=town[2][0], score=trail.score + len(town[1]), doubts=(*trail.doubts, "hold.address.town")
        )


def _misspelt(text: str, at: int, places: Sequence[Place], levels: dict[int, int]) -> Iterator[tuple[int, Place, str]]:
    """Yield the place whose name nearly matches the text here: the end of the name, the place, and the doubt."""
    field = text.find(_EDGE, at)
    if at in levels and 1 < field - at < 12:
        ends = [field]
    else:
        ends = [each.end() for each in re.compile(r"[省市区县旗州盟]").finditer(text, at + 1, at + 10)]
    for end in ends:
        if text[at:end] in gazetteer().names:
            return
        for nearest, same_sound in spelling.nearest(text[at:end], places):
            yield end, nearest, "hold.address.misspelt" if same_sound else "hold.address.similar"
            return


def _town_at(text: str, at: int, place: Place) -> tuple[int, str, tuple[Place, ...]] | None:
    """Find the longest town of the place at this position: its end, its name, and the districts that have it."""
    towns = gazetteer().towns(place)
    for end in range(min(len(text), at + _LONGEST_TOWN), at + 1, -1):
        name = _OFFICE.sub("街道", text[at:end])
        if name in towns:
            return end, name, towns[name]
        if name.endswith("区") and not gazetteer().below[place]:  # a city without districts: 东莞市万江区
            for town in (f"{name[:-1]}街道", f"{name[:-1]}镇"):
                if town in towns:
                    return end, town, towns[town]
    return None


def _town_bonus(text: str, trail: _Trail) -> float:
    """Return a small bonus if the detail begins with a town of the district."""
    place = trail.place
    if place is None or place.level < 3:
        return 0.0
    return 0.3 if _town_at(text, _skip(text, trail.at), place) else 0.0


def _joined(text: str) -> str:
    """Join the fields without separators."""
    joined = ""
    for part in text.split(_EDGE):
        part = part.strip(" ,，.。、;；:：-—")
        gap = " " if joined and part and joined[-1].isascii() and part[0].isascii() else ""
        joined += gap + part
    return joined


def _deliverable(detail: str) -> bool:
    """Whether the detail names something to deliver to."""
    if _MASKED.search(detail) or (_VAGUE.search(detail) and not _EXACT.search(detail)):
        return False
    left = _REMARK.sub(" ", detail)
    if _NUMBERED.search(left):
        return True
    return re.search(r"[\u4e00-\u9fff]{2}|[^\W\d_]{3}", left) is not None and (
        _SITE.search(left) is not None or re.search(r"[A-Za-z]{3}", left) is not None
    )


def _finish(place: Place, before: str, rest: str, doubts: Iterable[str]) -> Reading:
    """Split the town from the rest of the text, and choose the doubt with the lowest confidence."""
    found, town = [each for each in doubts if each], ""
    if match := _town_at(rest, 0, place):
        town, rest = match[1], rest[match[0] :].strip()
    detail = before + rest
    placed = {"hold.address.zone", "hold.address.ambiguous"} & set(found)
    if place.level == 1 and "hold.address.ambiguous" not in found:
        found.append("hold.address.unknown")
    elif place.level == 2 and gazetteer().below[place] and not placed:
        found.append("hold.address.no_district")
    if detail and not _deliverable(detail):
        found.append("hold.address.vague")
    return Reading(place, town, detail, min(found, key=_CONFIDENCE.__getitem__, default=""))

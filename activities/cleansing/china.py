"""Addresses in China: a text is read from its left, name by name, as one chain of divisions and then the detail.

Every way to read it is followed and scored; two different places that score the same are ambiguous. What is read
without doubt is so read at once. For what is not, three more readings are tried: in simplified characters, with
pinyin and English made Chinese, and with names misspelt.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from activities.cleansing import spelling
from activities.cleansing.gazetteer import Form, Place, gazetteer
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
"""How sure of a place each doubt leaves us."""

_LONGEST = 200
"""What a field of a recipient may hold."""

_EDGE = "\n"
"""Stands between the fields as told: no name goes across it."""
_BETWEEN = re.compile(r"(?:[\s,，.。、;；:：/|\\\-—_·>()（）]|中华人民共和国|中国(?=.))*")
_FILLER = re.compile(
    r"(?<=\n)(?:市辖区|市辖县|县|省直辖县级行政区划|自治区直辖县级行政区划|省直辖行政单位|省直辖|直辖县级|其它区?|其他区?|无|不详|-)(?=\n)"
)
"""What fills a field where there is nothing to tell."""
_NOT_A_PLACE = re.compile(
    r"[东西南北中前后新老上下内外一二三四五六七八九环]{0,2}(?:路|街(?!道)|大街|大道|道(?!里|外)|巷|弄|胡同|桥|站|机场|大厦|大楼|广场|公园|花园|花苑|"
    r"小区|新村|公寓|宾馆|酒店|饭店|大学|学院|中学|小学|医院|银行|商场|百货|市场|公馆|银座|会馆|公司|集团|立交|高速|湾|湖|山庄|人家|名苑|家园|豪庭)"
)
"""What makes the name before it that of a street or building."""
_ZONE = re.compile(
    r"[\u4e00-\u9fff]{0,8}?(?:高新技术产业(?:开发|园)?区|高新技术开发区|经济技术开发区|经济开发区|技术开发区|高新(?:产业)?开发区|开发区|高新区|"
    r"经开区|工业园区|产业园区|工业区|新区|新城区?|保税区|度假区|示范区|风景区|管委会|管理区|实验区|西咸新区)"
)
"""Zones are in no standard: they lie in districts, and are told in their place."""
_TOWN = re.compile(r"[\u4e00-\u9fff]{1,12}?(?:街道办事处|街道办|街道|街办|镇|乡|苏木)")
_VAGUE = re.compile(r"附近|周边|周围|旁边|对面|对过|隔壁|一带|左右|那边|这边|边上|不远|某处|路口")
_EXACT = re.compile(r"\d|[零一二三四五六七八九十百]+[号栋幢楼室]")
_REACH = 24
"""How many characters after what was read a district may still be found."""
_GENERIC = frozenset({"城区", "郊区", "矿区", "东区", "西区", "南区", "北区", "中区", "市区", "新区"})
"""Districts whose name means nothing without their city."""


class Reading(NamedTuple):
    """A text as an address. ``place`` is ``None`` where no division could be told."""

    place: Place | None
    town: str
    detail: str
    doubt: str

    @property
    def confidence(self) -> Decimal:
        return _CONFIDENCE[self.doubt]


class _Trail(NamedTuple):
    """How far a way of reading has come."""

    at: int
    place: Place | None
    score: float
    doubts: tuple[str, ...] = ()
    kept: str = ""
    """Passed over: it belongs to the detail."""


def cleansed(person: Recipient) -> dict[str, object]:
    """What becomes of the address of someone in China: the fields to change."""
    place, town, detail, doubt = _read(person)
    if place is None or len(detail) > _LONGEST:
        return {"confidence": _CONFIDENCE[doubt or "hold.address.unknown"], "doubt": doubt or "hold.address.unknown"}
    found = (place.province, place.city, place.district, town, detail)
    names = dict(zip(("province", "city", "district", "town", "street"), found, strict=True))
    return {**names, "division": place.code, "confidence": _CONFIDENCE[doubt], "doubt": doubt}


def _read(person: Recipient) -> Reading:
    """The surest of the readings there are."""
    *divisions, town, street = person.address
    place = None if town or _begins_anew(street) else _known(*divisions)
    if place:
        return _finished(place, street, ())
    told = (*divisions, town, street)
    best = _reading(told)
    if best.confidence < _CONFIDENCE["hold.address.renamed"]:
        others = [(each, "") for each in spelling.simplified(told)]
        others += [(each, "hold.address.romanised") for each in spelling.chinese(told)]
        best = max(best, *(_reading(each, doubt) for each, doubt in others), key=_confidence) if others else best
    if town and not best.town:
        best = best._replace(town=town, detail=best.detail.removeprefix(town).strip())
    return best


def _confidence(reading: Reading) -> Decimal:
    return reading.confidence


@lru_cache(4096)
def _known(province: str, city: str, district: str) -> Place | None:
    """The district that three fields name, in full or short, each in its place and nothing else."""
    for name in gazetteer().names.get(district or city, {}).values():
        place = name.place
        if name.form is Form.OLD or (place.district and not district) or len(place.names) < 2:
            continue
        above = (place.province, place.city) if district else (place.province,)
        told = (province, city) if district else (province,)
        if all(
            each == full or any(up.name == full and up.holds(place) for up in _named(each))
            for each, full in zip(told, above, strict=True)
        ) and (place.district or not gazetteer().below[place]):
            return place
    return None


def _named(name: str) -> Iterator[Place]:
    return (each.place for each in gazetteer().names.get(name, {}).values() if each.form is not Form.OLD)


def _begins_anew(street: str) -> bool:
    """Whether the street tells divisions itself, or noise before them."""
    return any(True for _ in gazetteer().at(street, 0)) or bool(re.search(r"1[3-9]\d{9}|[:：]", street))


def _reading(told: Sequence[str], doubt: str = "") -> Reading:
    *fields, street = told
    text = _EDGE + _EDGE.join(told)
    text = _FILLER.sub(lambda filler: "-" * len(filler[0]), text)
    levels = _levels(fields)
    begin, trails = _beginning(text, levels)
    trails = [on for trail in trails for on in _further(text, trail, levels)]
    scored = [(trail.score + _by_town(text, trail), trail) for trail in trails]
    top = max((score for score, _ in scored), default=0.0)
    best = [trail for score, trail in scored if score > top - 0.01]
    if not best:
        return Reading(None, "", _joined(text), "hold.address.unknown")
    trail = max(best, key=lambda each: (each.at, -_level(each.place)))
    place, at, doubts = trail.place, trail.at, [doubt, *trail.doubts]
    rivals = [each.place for each in best if each.place and place and not each.place.shares_line(place)]
    if place and rivals:
        doubts.append("hold.address.ambiguous")
        place = _common(place, rivals)
        at = _after(text, begin, place)
    if place is None:
        return Reading(None, "", _joined(text), "hold.address.ambiguous")
    before = _joined(text[:begin])
    if before and spelling.nearest(before, [each for each in (place, *_above(place)) if each]):
        before = ""
        doubts.append("hold.address.misspelt")
    elif before:
        doubts.append("hold.address.unread" if re.search(r"[省市区县州A-Za-z]|\d{7}", before) else "hold.address.noise")
    if at < len(text) - len(street) and not trail.kept and _joined(text[at : len(text) - len(street)]) != fields[-1]:
        doubts.append("hold.address.unread")
    detail = "".join(filter(None, (before, trail.kept, _joined(text[at:]))))
    return _finished(place, detail, doubts)


def _level(place: Place | None) -> int:
    return place.level if place else 0


def _above(place: Place) -> Iterator[Place]:
    while place.parent:
        place = place.parent
        yield place


def _after(text: str, begin: int, place: Place | None) -> int:
    """Where the detail begins once the divisions that are sure are read: none of what is unsure is taken from it."""
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
    """The smallest division that holds them all."""
    found: Place | None = place
    while found and not all(found.holds(each) for each in others):
        found = found.parent
    return found


def _levels(fields: Sequence[str]) -> dict[int, int]:
    """Where each field begins, and the level that it should be of."""
    at, found = 1, {}
    for level, field in enumerate(fields, 1):
        found[at] = level
        at += len(field) + 1
    return found


def _skip(text: str, at: int) -> int:
    while (end := _BETWEEN.match(text, at).end()) > at:  # type: ignore[union-attr]
        at = end
    return at


def _beginning(text: str, levels: dict[int, int]) -> tuple[int, list[_Trail]]:
    """Where divisions begin, which may be after a name, a phone or other words, and every way to read on from there."""
    start = _skip(text, 0)
    trails = [trail for trail in _trails(text, _Trail(start, None, 0.0), levels) if trail.place]
    if trails:
        return start, trails
    for at in range(start + 1, min(len(text), start + 60)):
        loose = not text[at - 1].isalnum() or text[at - 1].isascii()
        for name in gazetteer().at(text, at):
            named = gazetteer().names[name].values()
            clear = any(each.form is not Form.SHORT and each.place.level < 3 for each in named)
            if clear or (loose and any(each.place.level < 3 for each in named)) or (loose and _sole(name)):
                trails = [trail for trail in _trails(text, _Trail(at, None, 0.0), levels) if trail.place]
                if trails:
                    return at, trails
    everywhere = [place for place in gazetteer().places.values() if place.level < 3]
    return start, [
        on
        for end, place, doubt in _misspelt(text, start, everywhere, levels)
        for on in _trails(text, _Trail(end, place, 1.0, (doubt,)), levels)
    ]


def _sole(name: str) -> bool:
    """A district's full name that is no other's."""
    named = gazetteer().names[name]
    return len(named) == 1 and all(each.form is not Form.SHORT for each in named.values())


def _trails(text: str, start: _Trail, levels: dict[int, int]) -> list[_Trail]:
    """Every way to read on, the best to each place at each point."""
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
            ahead += _on(text, trail, name, at, levels)
    return list(best.values())


def _on(text: str, trail: _Trail, name: str, at: int, levels: dict[int, int]) -> Iterator[_Trail]:
    """One name further, as each place that it may mean."""
    end = at + len(name)
    whole = text[at - 1] == _EDGE and (end == len(text) or text[end] == _EDGE)
    level = levels.get(at, 0) if whole else 0
    named = gazetteer().names[name]
    street = not whole and _NOT_A_PLACE.match(text, end) is not None
    here = trail.place
    agreeing = [each for each in named.values() if here and (here.holds(each.place) or each.place.holds(here))]
    moved = [
        place
        for up in (here.names if here else ())
        for place in gazetteer().moved.get((up, name), ())
        if not any(each.place == place for each in agreeing)
    ]
    for place in moved:
        doubt = "hold.address.split" if len(moved) > 1 else "hold.address.renamed"
        yield _Trail(end, place, trail.score + 3 + len(name), (*trail.doubts, doubt), trail.kept)
    for each in agreeing or ([] if moved else named.values()):
        place, form, split = each
        if (form is Form.SHORT and street) or (form is not Form.SHORT and street and text[end : end + 1] in "路街"):
            continue
        if place.level == 3 and name in _GENERIC and (here is None or here.level < 2):
            continue
        doubts = trail.doubts
        score = trail.score + len(name) + form + (0.5 if place.level == level else 0) - place.level / 10
        if here and each not in agreeing:
            if not whole and (form is Form.SHORT or (trail.at != at and text[at - 1] not in "\n ,，")):
                continue
            if "hold.address.contradiction" in doubts:
                continue
            doubts = (*doubts, "hold.address.contradiction")
            score += 2 * here.shares(place) - 8
        elif here and place.holds(here):
            if form is Form.SHORT and not (whole or _apart(text, end, here)):
                continue
            yield _Trail(end, here, trail.score, doubts, trail.kept)
            continue
        if form is Form.OLD:
            doubts = (*doubts, "hold.address.split" if split else "hold.address.renamed")
        elif here is None and place.level == 3:
            doubts = (*doubts, "hold.address.implied")
        kept = trail.kept
        if form is Form.SHORT and not whole and not _apart(text, end, place):
            kept += name
            if place.level == 3:
                doubts = (*doubts, "hold.address.landmark")
        yield _Trail(end, place, score, doubts, kept)


def _apart(text: str, end: int, place: Place) -> bool:
    """Whether what was read stands for itself: a gap or a smaller division follows."""
    if end == len(text) or _skip(text, end) > end:
        return True
    within = (each.place for name in gazetteer().at(text, end) for each in gazetteer().names[name].values())
    return any(place.holds(each) for each in within) or any(True for _ in _towns_at(text, end, place))


def _further(text: str, trail: _Trail, levels: dict[int, int]) -> Iterator[_Trail]:
    """The district, where reading stopped short of it: behind a zone, by its town, misspelt, or further on."""
    yield trail
    place = trail.place
    if place is None or place.level == 3 or (place.level == 2 and not gazetteer().below[place]):
        return
    at = _skip(text, trail.at)
    if zone := _ZONE.match(text, at):
        kept = trail.kept + zone[0]
        after = _Trail(zone.end(), place, trail.score + 0.1, (*trail.doubts, "hold.address.zone"), kept)
        for on in _trails(text, after, levels):
            yield on if on.place != place else on._replace(score=trail.score + 0.2)
        return
    stop = min(len(text), at + _REACH)
    if place.level == 2:
        for town, towns in _towns_at(text, at, place):
            if len(towns) == 1:
                yield _Trail(at, towns[0], trail.score + len(town), (*trail.doubts, "hold.address.town"), trail.kept)
                return
    for end, found, doubt in _misspelt(text, at, gazetteer().below[place], levels):
        after = _Trail(end, found, trail.score + end - at, (*trail.doubts, doubt), trail.kept)
        yield from _trails(text, after, levels)
    for begin in range(at + 1, stop):
        for name in gazetteer().at(text, begin):
            for each in gazetteer().names[name].values():
                inside = each.place.level == 3 and place.holds(each.place) and each.form is Form.FULL
                if inside and not _NOT_A_PLACE.match(text, begin + len(name)):
                    doubts = (*trail.doubts, "hold.address.landmark")
                    yield _Trail(trail.at, each.place, trail.score + len(name), doubts, trail.kept)


def _misspelt(text: str, at: int, places: Sequence[Place], levels: dict[int, int]) -> Iterator[tuple[int, Place, str]]:
    """Those whose names are nearly what stands there: where it ends, which, and what to doubt."""
    chunk = re.compile(r"[\u4e00-\u9fff]{1,9}?[省市区县旗州盟]").match(text, at)
    field = text.find(_EDGE, at)
    words = text[at:field] if at in levels and 1 < field - at < 12 else chunk[0] if chunk else ""
    if words in gazetteer().names:
        return
    for found, same_sound in spelling.nearest(words, places):
        yield at + len(words), found, "hold.address.misspelt" if same_sound else "hold.address.similar"


def _towns_at(text: str, at: int, place: Place) -> Iterator[tuple[str, tuple[Place, ...]]]:
    towns = gazetteer().towns(place)
    if told := _TOWN.match(text, at):
        for name in dict.fromkeys((told[0], re.sub(r"(街道办事处|街道办|街办)$", "街道", told[0]))):
            if name in towns:
                yield name, towns[name]


def _by_town(text: str, trail: _Trail) -> float:
    """A little more for the district that has the town which the detail begins with."""
    place = trail.place
    if place is None or place.level < 3:
        return 0.0
    return 0.3 if any(True for _ in _towns_at(text, _skip(text, trail.at), place)) else 0.0


def _joined(text: str) -> str:
    """Fields one after the other, without what stands between them."""
    joined = ""
    for part in text.split(_EDGE):
        part = part.strip(" ,，.。、;；:：-—")
        gap = " " if joined and part and joined[-1].isascii() and part[0].isascii() else ""
        joined += gap + part
    return joined


def _finished(place: Place, detail: str, doubts: Iterable[str]) -> Reading:
    """With the town taken from the detail, and what is doubtful of it."""
    found, town = [each for each in doubts if each], ""
    for name, towns in _towns_at(detail, 0, place):
        if len(towns) == 1:
            town, detail = name, _TOWN.sub("", detail, count=1).strip()
            break
    placed = {"hold.address.zone", "hold.address.ambiguous"} & set(found)
    if place.level < 3 and gazetteer().below[place] and not placed:
        found.append("hold.address.no_district" if place.level == 2 else "hold.address.unknown")
    if _VAGUE.search(detail) and not _EXACT.search(detail):
        found.append("hold.address.vague")
    return Reading(place, town, detail, min(found, key=_CONFIDENCE.__getitem__, default=""))

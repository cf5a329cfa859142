"""Other spellings of Chinese places: traditional characters, pinyin, English, and misspellings."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import pycountry
from opencc import OpenCC
from rapidfuzz.distance import Levenshtein

from activities.cleansing.gazetteer import Form, Place, gazetteer

_ENGLISH = {
    "peking": "北京市",
    "tientsin": "天津市",
    "chungking": "重庆市",
    "canton": "广州市",
    "nanking": "南京市",
    "tsingtao": "青岛市",
    "amoy": "厦门市",
    "soochow": "苏州市",
    "hangchow": "杭州市",
    "swatow": "汕头市",
    "mukden": "沈阳市",
    "harbin": "哈尔滨市",
    "qiqihar": "齐齐哈尔市",
    "hohhot": "呼和浩特市",
    "baotou": "包头市",
    "ordos": "鄂尔多斯市",
    "hulunbuir": "呼伦贝尔市",
    "urumqi": "乌鲁木齐市",
    "karamay": "克拉玛依市",
    "turpan": "吐鲁番市",
    "kashgar": "喀什地区",
    "kashi": "喀什地区",
    "hotan": "和田地区",
    "ili": "伊犁哈萨克自治州",
    "lhasa": "拉萨市",
    "shigatse": "日喀则市",
    "tibet": "西藏自治区",
    "xizang": "西藏自治区",
    "innermongolia": "内蒙古自治区",
    "neimenggu": "内蒙古自治区",
    "shaanxi": "陕西省",
    "hongkong": "香港特别行政区",
    "hksar": "香港特别行政区",
    "kowloon": "香港特别行政区",
    "macau": "澳门特别行政区",
    "macao": "澳门特别行政区",
    "taiwan": "台湾省",
    "taipei": "台北市",
    "newtaipei": "新北市",
    "taichung": "台中市",
    "tainan": "台南市",
    "kaohsiung": "高雄市",
    "taoyuan": "桃园市",
    "hsinchu": "新竹市",
    "luan": "六安市",
    "pudong": "浦东新区",
    "lvliang": "吕梁市",
    "sz": "深圳市",
}
"""Names that are not pinyin, or differ from the pinyin of ``pypinyin``."""
_LETTERS = (
    "BJ11 TJ12 HE13 SX14 NM15 LN21 JL22 HL23 SH31 JS32 ZJ33 AH34 FJ35 JX36 SD37 HA41 HB42 HN43 GD44 GX45 HI46 CQ50 "
    "SC51 GZ52 YN53 XZ54 SN61 GS62 QH63 NX64 XJ65 TW71 HK81 MO82"
)
"""Letter codes of GB/T 2260, each followed by the first two digits of its numeric code."""
_SUFFIXES = {
    **dict.fromkeys(("province", "prov", "sheng"), (1,)),
    **dict.fromkeys(("municipality",), (1, 2)),
    **dict.fromkeys(("prefecture", "zhou", "league"), (2,)),
    **dict.fromkeys(("city", "shi"), (2, 3)),
    **dict.fromkeys(("district", "dist", "county", "qu", "xian", "banner", "qi"), (3,)),
    **dict.fromkeys(("newarea", "xinqu"), (3,)),
}
"""Suffixes of names, with the levels that they mean."""
_STREETS = re.compile(
    "road|rd|street|st|avenue|ave|lu|jie|dadao|dajie|lane|alley|xiang|building|tower|plaza|square|hotel|university|"
    "school|hospital|park|garden|bridge|airport|station|mansion|village|east|west|north|south|middle|dong|xi|nan|bei|"
    "zhong|[ewns]",
    re.IGNORECASE,
)
"""Words that make the preceding name that of a street or building."""
_CHINESE_WORD = re.compile(
    rf"(?:{_STREETS.pattern})|high|tech|new|room|rm|unit|floor|flr|block|blk|bldg|apt|suite|number|east|section|phase|town|village|"
    r"community|residential|center|centre|international|mall|office|company|factory|industrial|zone|science|technology|"
    r"software|development|avenue|china|prc|the|and|province|city|district|county|autonomous|region|prefecture|"
    r"(?:(?:[bpmfdtnlgkhjqxrzcsyw]|zh|ch|sh)(?:[ae]ng?|[iu]?[ao]ng?|ai|ei|ao|ou|[aoeiuvü]|iao?|i[eu]|ian|ing?|i[ao]ng|"
    r"ua[in]?|uang|u[ioen]|[vü]e|iong)|ai|ei|ao|ou|[ae]ng?|er|[aoe])+",
    re.IGNORECASE,
)
"""Latin words of a Chinese address: generic words, and words of pinyin syllables."""
_FOREIGN = re.compile(
    r"\b[A-Z]{2},?\s+\d{5}(?:-\d{4})?\b|\b[A-Z]{1,2}\d[A-Z\d]?\s+\d[A-Z]{2}\b|\b[A-Z]\d[A-Z]\s*\d[A-Z]\d\b|"
    r"\bU\.?S\.?A?\b|\bU\.?K\b|[A-Za-z],?\s+\d{5}(?:-\d{4})?\s*$"
)
"""Postcodes and abbreviations of other countries."""
_NOISE = frozenset({"china", "prc", "p", "r", "c", "cn", "the", "autonomous", "region", "sar", "special"})
_WORD = re.compile(r"[A-Za-zÀ-ÿ'’]+|[\u4e00-\u9fff]+|\d+|[,;\n]")
_ZONES = ("高新", "开发", "经开", "经济", "工业", "保税", "新区", "新城")


class _Mention(NamedTuple):
    start: int
    end: int
    places: tuple[Place, ...]
    weight: float


def simplified(parts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the parts in simplified characters, if that changes them. Place names keep theirs: 乾县, not 干县."""
    converted = tuple(_simplified(part) for part in parts)
    if converted != tuple(parts):
        yield converted


def _simplified(text: str) -> str:
    converted: str = _opencc().convert(text)
    if len(converted) != len(text):
        return converted
    kept = gazetteer().characters
    return "".join(old if old in kept else new for old, new in zip(text, converted, strict=True))


def chinese(parts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the parts with divisions in pinyin, English or letter codes translated to Chinese, if there are any."""
    *fields, street = parts
    if not re.search(r"[A-Za-z]{2}", " ".join(parts)):
        return
    text = "\n".join(parts)
    mentions = list(_mentions(text))
    scores = {place: _agreement(place, mentions) for place in dict.fromkeys(chain(*(each.places for each in mentions)))}
    top = max(scores.values(), default=0)
    best = [place for place, score in scores.items() if score == top]
    if not best or not _in_china(text, mentions):
        return
    deepest = max(best, key=lambda place: place.level, default=None)
    if deepest is None or not all(place.holds(deepest) for place in best):
        return
    own = len("\n".join(fields)) + 1
    rest = "".join(
        " " if any(each.start <= at < each.end for each in mentions) else char for at, char in enumerate(text)
    )
    left = street if re.search(r"\w", rest[own:]) else ""
    over = " ".join(re.findall(r"[\u4e00-\u9fff]+|\w*\d\w*", rest[:own]))
    yield deepest.province, deepest.city, deepest.district, "", f"{over}{left}"


def _in_china(text: str, mentions: Sequence["_Mention"]) -> bool:
    """Whether nothing suggests another country, and at least two names agree if other Latin words are unread."""
    named = [each for each in mentions if each.places]
    words = [
        word[0]
        for word in re.finditer(r"[A-Za-zÀ-ÿ]{2,}", text)
        if not any(each.start <= word.start() < each.end for each in named)
    ]
    joined = f" {' '.join(words).lower()} "
    if _FOREIGN.search(text) or any(name in joined for name in _abroad()):
        return False
    return len(named) > 1 or all(len(word) < 3 or _CHINESE_WORD.fullmatch(word) for word in words)


@lru_cache(1)
def _abroad() -> tuple[str, ...]:
    """Return the English names of other countries and of the states of the US, as words between spaces."""
    names = {getattr(each, "common_name", each.name) for each in pycountry.countries} | {"England", "Scotland", "Korea"}
    names |= {each.name for each in pycountry.subdivisions if each.country_code == "US"}
    names = {name.split(",")[0] for name in names} - {"China", "Hong Kong", "Macao", "Taiwan", "Jersey", "Man"}
    return tuple(f" {name.lower()} " for name in names if name.isascii())


def nearest(words: str, places: Sequence[Place]) -> list[tuple[Place, bool]]:
    """Return the one place whose name is close to these words, and whether it sounds the same; empty if unclear."""
    if not re.fullmatch(r"[\u4e00-\u9fff]{2,12}", words) or words.startswith(_ZONES):
        return []
    names = {
        name: place for place in places for name in (place.name, *_shorts(place)) if abs(len(name) - len(words)) < 2
    }
    sound = _sound(words)
    alike = {place for name, place in names.items() if _sound(name) == sound}
    if len(alike) == 1:
        return [(alike.pop(), True)]
    close = {
        place
        for name, place in names.items()
        if len(name) > 2 and Levenshtein.distance(words, name, score_cutoff=1) == 1 and words[-1] == name[-1]
    }
    likely = {place for place in close if place.name[0] == words[0]} or close
    return [(likely.pop(), False)] if len(likely) == 1 else []


def _shorts(place: Place) -> Iterator[str]:
    return (name for name in _short_names().get(place, ()) if len(name) > 1)


@lru_cache(1)
def _short_names() -> dict[Place, list[str]]:
    short_names: dict[Place, list[str]] = defaultdict(list)
    for name, meant in gazetteer().names.items():
        for place, each in meant.items():
            if each.form is Form.SHORT:
                short_names[place].append(name)
    return short_names


@lru_cache(16384)
def _sound(text: str) -> str:
    from pypinyin import lazy_pinyin  # loaded on first use: its tables take a second

    return "".join(lazy_pinyin(text.replace("朝阳", "潮阳")))


@lru_cache(1)
def _opencc() -> OpenCC:
    return OpenCC("t2s")


@lru_cache(1)
def romanised() -> dict[str, tuple[Place, ...]]:
    """Return places by pinyin or English name, in lower case without spaces."""
    found: dict[str, dict[Place, None]] = defaultdict(dict)
    for name, meant in gazetteer().names.items():
        if len(name) > 1:
            for place, each in meant.items():
                if each.form is not Form.OLD and not (place.level == 1 and name.startswith("陕西")):
                    found[_sound(name).replace("ü", "v")][place] = None
    for english, name in _ENGLISH.items():
        for place, each in gazetteer().names[name].items():
            if each.form is Form.FULL:
                found[english][place] = None
    return {name: tuple(places) for name, places in found.items()}


@lru_cache(1)
def _lettered() -> dict[str, tuple[Place, ...]]:
    return {code[:2]: (gazetteer().places[f"{code[2:]}0000"],) for code in _LETTERS.split()}


def _mentions(text: str) -> Iterator[_Mention]:
    """Yield the divisions that the words may mean, the longest match first at each position, without overlaps."""
    words = [part for word in _WORD.finditer(text) for part in _parted(word[0], word.start(), word.end())]
    at = 0
    while at < len(words):
        word, start, end = words[at]
        if "\u4e00" <= word[0] <= "\u9fff":
            yield from _in_chinese(text, start, end)
            at += 1
            continue
        for count in (4, 3, 2, 1):
            run = words[at : at + count]
            if len(run) < count or not all(re.match(r"[A-Za-z]", each[0]) for each in run):
                continue
            if places := _places_named(run, words[at + count : at + count + 1]):
                suffix = _suffix(words, at + count)
                fitting = tuple(place for place in places if place.level in suffix[1]) or places
                yield _Mention(start, suffix[0] or run[-1][2], fitting, 1 + 0.5 * bool(suffix[0]))
                at += count + bool(suffix[0])
                break
        else:
            if word.lower() in _NOISE:
                yield _Mention(start, end, (), 0)
            at += 1


def _parted(word: str, start: int, end: int) -> list[tuple[str, int, int]]:
    """Split a long word that consists only of names, such as ``guangdongshengshenzhenshi``."""
    parts: list[tuple[str, int, int]] = []
    at = 0
    while word.isascii() and len(word) > 9 and at < len(word):
        length = next((n for n in range(len(word) - at, 3, -1) if word[at : at + n].lower() in romanised()), 0)
        if not length:
            break
        parts.append((word[at : at + length], start + at, start + at + length))
        at += length
    return parts if at == len(word) else [(word, start, end)]


def _places_named(run: list[tuple[str, int, int]], after: list[tuple[str, int, int]]) -> tuple[Place, ...]:
    """Return the places that a run of words may name; none if the next word makes it a street or building."""
    if after and _STREETS.fullmatch(after[0][0]) and after[0][1] - run[-1][2] < 3:
        return ()
    joined = "".join(re.sub(r"['’]", "", each[0]) for each in run)
    if len(run) == 1 and joined in _lettered():
        return _lettered()[joined]
    return romanised().get(joined.lower(), ()) if len(joined) > 2 or joined == "SZ" else ()


def _suffix(words: list[tuple[str, int, int]], at: int) -> tuple[int, tuple[int, ...]]:
    """Return the end of the suffix after a name, 0 if there is none, and the levels it means."""
    for count in (2, 1):
        behind = words[at : at + count]
        joined = "".join(each[0] for each in behind).lower()
        if joined in _SUFFIXES:
            return behind[-1][2], _SUFFIXES[joined]
    return 0, (1, 2, 3)


def _in_chinese(text: str, start: int, end: int) -> Iterator[_Mention]:
    while start < end:
        name = next(gazetteer().at(text[:end], start), None)
        if name is None:
            return
        meant = gazetteer().names[name].values()
        yield _Mention(start, start + len(name), tuple(each.place for each in meant), 1.5)
        start += len(name)


def _agreement(place: Place, mentions: Sequence[_Mention]) -> float:
    """Score a place by the mentions that agree with it, less those that contradict it."""
    score = 0.0
    for each in mentions:
        if any(mentioned == place for mentioned in each.places):
            score += each.weight - place.level / 100
        elif any(mentioned.holds(place) for mentioned in each.places):
            score += each.weight
        elif each.places and not any(place.holds(mentioned) for mentioned in each.places):
            score -= each.weight
    return score

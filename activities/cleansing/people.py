"""Names and phones of recipients: phones in E.164, names without noise, and both extracted from the street."""

import re
from functools import lru_cache

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberFormat

from activities.cleansing.gazetteer import gazetteer
from models.address import Recipient

_EXTENSION = re.compile(
    r"(?<=\d)\s*(?:;ext=|ext(?:ension|n)?\.?|转接?|分机号?|[-—_,，#*xX()（）\[［【])\s*[:：]?\s*(\d{1,8})\s*[)）\]］】]?$",
    re.I,
)
"""The extension of a virtual number or a switchboard: ``13800000000-1234``, ``转1234``, ``,1234``, ``ext 12``."""
_MOBILE = re.compile(r"(?:\+?86|0086)?[-\s]*(1[3-9]\d)[-\s]?(\d{4})[-\s]?(\d{4})")
_NATIONAL = re.compile(
    r"(?:(?:\+|00)86[-\s]*|86[-\s]+)?\(?(0\d{2,3})\)?[-\s]*(\d{7,8})|([48]00)[-\s]?(\d{3})[-\s]?(\d{4})"
)
_IN_TEXT = re.compile(
    r"(?<![\d+])(?:(?:\+?86|0086)[-\s]?)?(?:1[3-9]\d[-\s]?\d{4}[-\s]?\d{4}(?:(?:-|转|,)\d{1,6}|[\[【]\d{3,6}[\]】])?|0\d{2,3}-\d{7,8}(?:[-转]\d{1,6})?)(?!\d)"
)
_LABEL = re.compile(
    r"(?:收货人|收件人|联系人|姓名|名字|手机号码?|手机|联系电话|联系方式|电话号码?|电话|收货地址|收件地址|详细地址|所在地区|地区|地址)\s*[:：]\s*"
)
_PERSON = r"[\u4e00-\u9fff]{1,3}(?:·[\u4e00-\u9fff]{1,6})?(?:先生|女士|小姐)?"
_SURNAMES = frozenset(
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林罗高郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范金石廖贾夏韦付方白"
    "邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵钱严覃武戴莫孔向汤常温康施文牛樊葛邢安齐易乔伍庞颜倪庄聂章鲁岳翟殷詹申欧耿关焦俞左柳甘祝包尚符舒"
    "阮柯纪梅童凌毕单季裴霍涂成苗谷盛曲翁冉骆蓝路游辛靳管柴蒙鲍华喻祁蒲房滕屈饶解牟艾尤穆司卓古吉缪简车项连芦麦褚娄窦戚岑景党宫费卜席卫诸葛上官"
)
"""First characters of common Chinese surnames."""
_PLACE_END = re.compile(r"[省市区县镇乡村路街巷里弄园苑城楼店厂院校号栋室层]$")
_ASIDE = re.compile(r"[(（【\[〔<《{](?!\d{3,8}[\]】])[^)）】\]〕>》}]*[)）】\]〕>》}]")
"""A bracketed remark. The code of a virtual number stays in the name, where the carrier looks for it: 王芳[7788]."""
_SYMBOL = re.compile(
    "[\u200b-\u200f\u2060-\u206f\ufe0e\ufe0f\u2190-\u2bff\u3004\u3012\u3020\ue000-\uf8ff\U0001f000-\U0001faff]"
)
_CALLED = re.compile(
    r"^(?:收货人|收件人|联系人|姓名|名字)\s*[:：]\s*|\s*[(（]?(?:亲收|亲启|(?<=\s)[收启]|(?<=[\u4e00-\u9fff]{2})收)[)）]?$"
)


def phone(original: str, country: str) -> str:
    """Return the phone in E.164 with ``;ext=``; return it unchanged if it is invalid or masked by the platform."""
    text = original.strip().removeprefix("tel:")
    if "*" in re.sub(r"\*\d+$", "", text):
        return original
    extension = ""
    if not re.fullmatch(r"\+?[\d\s]*", text) and (found := _EXTENSION.search(text)) and _whole(text[: found.start()]):
        text, extension = text[: found.start()], found[1]
    if country == "CN" and (mobile := _MOBILE.fullmatch(text)):
        number = f"+86{''.join(mobile.groups())}"
    elif country == "CN" and (fixed := _NATIONAL.fullmatch(text)):
        number = f"+86{fixed[1][1:]}{fixed[2]}" if fixed[1] else f"+86{fixed[3]}{fixed[4]}{fixed[5]}"
    else:
        dialled = re.sub(r"^00[-\s]*(?=[1-9])|^(?=86[-\s])", "+", text)
        try:
            parsed = phonenumbers.parse(dialled, country)
        except NumberParseException:
            return original
        if not phonenumbers.is_valid_number(parsed):
            return original
        number = phonenumbers.format_number(parsed, PhoneNumberFormat.E164)
        if country == "CN" and Recipient(phone=number).digits != Recipient(phone=dialled).digits:
            return original
        extension = extension or parsed.extension or ""
    return f"{number};ext={extension}" if extension else number


def spellings(original: str) -> set[str]:
    """Return the digits under which a phone may be stored, read as a national number of every country."""
    found = {phone(original, country) for country in phonenumbers.SUPPORTED_REGIONS}
    return {Recipient(phone=each).digits for each in {original, *found}}


def _whole(text: str) -> bool:
    """Whether the text has enough digits for a complete number."""
    return len(re.sub(r"\D", "", text)) >= 10


def reachable(person: Recipient) -> bool:
    """Whether the phone is a valid number in E.164, or masked by the platform."""
    number = person.phone.partition(";ext=")[0]
    if "*" in re.sub(r"\*\d+$", "", number):
        return True
    return number.startswith("+") and (_MOBILE.fullmatch(number) is not None or _valid(number))


@lru_cache(4096)
def _valid(number: str) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number))
    except NumberParseException:
        return False


def name(original: str) -> str:
    """Remove bracketed remarks, symbols, labels such as 收件人 and 亲启, and gaps between Chinese characters.

    Return the name unchanged if nothing would be left of it.
    """
    trimmed = _ASIDE.sub("", _SYMBOL.sub("", original))
    trimmed = re.sub(r"(?<=[\u4e00-\u9fff])\s+(?=[\u4e00-\u9fff])", "", trimmed)
    while (shorter := _CALLED.sub("", trimmed.strip(" ,，.。;；:：-_~!！"))) != trimmed and re.search(r"\w", shorter):
        trimmed = shorter
    return trimmed if re.search(r"\w", trimmed) else original


def taken_out(person: Recipient) -> dict[str, str]:
    """Return the fields changed by moving a name and phone out of the street.

    They are moved only if they are the recipient's own, or the recipient has none.
    """
    street = person.street
    found = _IN_TEXT.search(street)
    labelled = _LABEL.search(street)
    if not found and not labelled and not (person.name and street.startswith(person.name)):
        return {}
    changed: dict[str, str] = {}
    if found and _same(found[0], person):
        changed["phone"] = person.phone or found[0]
        street = f"{street[: found.start()]}\n{street[found.end() :]}"
    own = re.escape(person.name) if person.name else _PERSON if found or labelled else r"(?!)"
    street = re.sub(rf"(?:收货人|收件人|联系人|姓名|名字)\s*[:：]\s*({own})(?=[\s,，;；]|$)", r"\1\n", street)
    street = _LABEL.sub("\n", street)
    parts = [
        part.strip(" ,，;；。、") for part in re.split(r"\n|(?<=[\u4e00-\u9fff])[ ,，;；]+(?=[\u4e00-\u9fff])", street)
    ]
    parts = [part for part in parts if part]
    for at in (0, -1):
        if len(parts) > 1 and re.fullmatch(own, parts[at]) and (person.name or _may_be_a_person(parts[at])):
            changed["name"] = person.name or parts.pop(at)
            parts = [part for part in parts if part != changed["name"]]
            break
    return {**changed, "street": " ".join(parts)}


def _may_be_a_person(words: str) -> bool:
    """Whether the words begin with a common surname and name no division: a name is never invented."""
    return words[0] in _SURNAMES and words not in gazetteer().names and not _PLACE_END.search(words)


def _same(number: str, person: Recipient) -> bool:
    return not person.phone or Recipient(phone=phone(number, "CN")).digits == person.digits

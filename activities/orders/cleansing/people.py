"""Names and phones of recipients: phones in E.164, names without noise, and both extracted from the street."""

import re

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberFormat

from models.address import Recipient

_EXTENSION = re.compile(
    r"(?<=\d)\s*(?:;ext=|ext(?:ension|n)?\.?|转接?|分机号?|[-—_,，#*xX()（）])\s*[:：]?\s*(\d{1,8})\s*[)）]?$", re.I
)
"""The extension of a virtual number or a switchboard: ``13800000000-1234``, ``转1234``, ``,1234``, ``ext 12``."""
_MOBILE = re.compile(r"(?:\+?86|0086)?[-\s]*(1[3-9]\d)[-\s]?(\d{4})[-\s]?(\d{4})")
_NATIONAL = re.compile(r"(?:(?:\+|00)86[-\s]*)?\(?(0\d{2,3})\)?[-\s]*(\d{7,8})|([48]00)[-\s]?(\d{3})[-\s]?(\d{4})")
_IN_TEXT = re.compile(
    r"(?<![\d+])(?:(?:\+?86|0086)[-\s]?)?(?:1[3-9]\d[-\s]?\d{4}[-\s]?\d{4}(?:(?:-|转|,)\d{1,6})?|0\d{2,3}-\d{7,8}(?:[-转]\d{1,6})?)(?!\d)"
)
_LABEL = re.compile(
    r"(?:收货人|收件人|联系人|姓名|名字|手机号码?|手机|联系电话|联系方式|电话号码?|电话|收货地址|收件地址|详细地址|所在地区|地区|地址)\s*[:：]\s*"
)
_PERSON = r"[\u4e00-\u9fff]{1,3}(?:·[\u4e00-\u9fff]{1,6})?(?:先生|女士|小姐)?"
_ASIDE = re.compile(r"[(（【\[〔<《{][^)）】\]〕>》}]*[)）】\]〕>》}]")
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
        try:
            parsed = phonenumbers.parse(re.sub(r"^00(?=[1-9])", "+", text), country)
        except NumberParseException:
            return original
        if not phonenumbers.is_valid_number(parsed):
            return original
        number = phonenumbers.format_number(parsed, PhoneNumberFormat.E164)
        if country == "CN" and Recipient(phone=number).digits != Recipient(phone=text).digits:
            return original
        extension = extension or parsed.extension or ""
    return f"{number};ext={extension}" if extension else number


def _whole(text: str) -> bool:
    """Whether the text has enough digits for a complete number."""
    return len(re.sub(r"\D", "", text)) >= 10


def reachable(person: Recipient) -> bool:
    """Whether the phone is valid, or masked by the platform."""
    return person.phone.startswith("+") or "*" in person.phone


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
    own = re.escape(person.name) if person.name else _PERSON
    street = re.sub(rf"(?:收货人|收件人|联系人|姓名|名字)\s*[:：]\s*({own})(?=[\s,，;；]|$)", r"\1\n", street)
    street = _LABEL.sub("\n", street)
    parts = [
        part.strip(" ,，;；。、") for part in re.split(r"\n|(?<=[\u4e00-\u9fff])[ ,，;；]+(?=[\u4e00-\u9fff])", street)
    ]
    parts = [part for part in parts if part]
    for at in (0, -1):
        if len(parts) > 1 and re.fullmatch(own, parts[at]):
            changed["name"] = person.name or parts.pop(at)
            parts = [part for part in parts if part != changed["name"]]
            break
    return {**changed, "street": " ".join(parts)}


def _same(number: str, person: Recipient) -> bool:
    return not person.phone or Recipient(phone=phone(number, "CN")).digits == person.digits

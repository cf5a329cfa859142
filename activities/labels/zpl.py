"""Labels as ZPL II, for thermal printers (Zebra Programming Guide): UTF-8 by ``^CI28``, fields escaped by ``^FH``.

Chinese text needs a TrueType font on the printer; its name there is given by the caller (``E:SIMSUN.TTF``).
"""

from collections.abc import Sequence

from activities.labels import masked
from models.i18n import t
from models.printing import Paper, Sheet

DOTS = {203: 8, 300: 12}
"""A millimetre in dots, by dots an inch."""


def labels(sheets: Sequence[Sheet], paper: Paper, lang: str, *, dpi: int = 203, font: str = "E:NOTOSANS.TTF") -> bytes:
    """One ``^XA … ^XZ`` a sheet."""
    return "\n".join(_label(sheet, paper, lang, DOTS[dpi], font) for sheet in sheets).encode()


def escaped(text: str) -> str:
    """Field data after ``^FH``: what ZPL reads as a command is told by its code, line breaks are spaces."""
    hidden = {"_": "_5F", "^": "_5E", "~": "_7E"}
    return "".join(hidden.get(sign, sign) for sign in " ".join(text.split()))


def _label(sheet: Sheet, paper: Paper, lang: str, mm: int, font: str) -> str:
    width, height = paper.size
    parts = ["^XA", "^CI28", f"^PW{width * mm}", f"^LL{height * mm}"]

    def write(x: float, y: float, size: float, text: str, lines: int = 1) -> None:
        block = f"^FB{int((width - x - 3) * mm)},{lines}" if lines > 1 else ""
        tall = int(size * mm)
        parts.append(f"^FO{int(x * mm)},{int(y * mm)}^A@N,{tall},{tall},{font}{block}^FH^FD{escaped(text)}^FS")

    told, person = sheet.label, sheet.recipient
    write(3, 3, 5, f"{(told.courier or sheet.carrier).upper()} {told.product}".strip())
    write(3, 10, 10, told.route or told.destination or person.city)
    write(3, 22, 4, told.hub)
    parts.append(f"^FO{6 * mm},{29 * mm}^BY{max(mm // 4, 2)}^BCN,{16 * mm},Y,N,N,A^FH^FD{escaped(sheet.waybill_no)}^FS")
    write(3, 53, 4.5, f"{t('label.to', lang)} {person.name} {masked(person.national_phone)}")
    write(3, 59, 4.5, f"{person.province} {person.city} {person.district} {person.full_street}", 3)
    write(3, 76, 3, f"{t('label.from', lang)} {sheet.sender.name} {masked(sheet.sender.national_phone)}")
    if sheet.cash_on_delivery is not None:
        write(3, 82, 7, t("label.cash", lang, amount=f"{sheet.cash_on_delivery:.2f}"))
    write(3, 92, 3, t("label.order", lang, order=sheet.order_no, shop=sheet.shop))
    write(3, 97, 3, ", ".join(f"{line.sku} × {line.quantity}" for line in sheet.lines), 3)
    parts.append(f"^FO{72 * mm},{90 * mm}^BQN,2,{max(mm // 2, 3)}^FH^FDMA,{escaped(told.qr or sheet.waybill_no)}^FS")
    if sheet.printed:
        write(70, 3, 3, t("label.again", lang, count=sheet.printed + 1))
    parts.append("^XZ")
    return "".join(parts)

"""Labels are rendered, scanned and read."""

import re
from collections.abc import Sequence
from contextlib import closing
from decimal import Decimal
from typing import Any

import pypdfium2
import pytest
import zxingcpp

from activities.fulfillment.labels import layout, pdf, zpl
from activities.fulfillment.labels.font import legible, width
from models.fulfillment import Label
from models.labels import SIZES, Good, Person, PrintKind, PrintSize, Slip

DOTS = 203 / 72


def a_slip(**changes: Any) -> Slip:
    content: dict[str, Any] = {
        "fulfillment_id": "order:own:web:1001:F1",
        "order_no": "1001",
        "shop": "own:web",
        "warehouse": "上海仓",
        "carrier": "顺丰速运",
        "waybill_no": "SF1330203456789",
        "label": Label(route="755WF-571-003", hub="杭州集散", origin="021", destination="755"),
        "recipient": Person(name="王**", phone="138****5678", place="广东省 深圳市 南山区 粤海街道科技园1203室"),
        "sender": Person(name="恒单上海仓", phone="021-****0001", place="上海市 青浦区 华新镇仓储路1号"),
        "goods": (Good(sku="A001", title="White cotton T-shirt", title_zh="白色纯棉T恤", quantity=2),),
        "weight_kg": Decimal("0.440"),
    }
    return Slip(**content | changes)


class Printed:
    """A rendered PDF."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        with closing(pypdfium2.PdfDocument(content)) as document:
            self.pages = len(document)

    def text(self, number: int = 0) -> str:
        """Return the text of a page without white space: lines break anywhere."""
        with closing(pypdfium2.PdfDocument(self._content)) as document:
            return re.sub(r"\s", "", document[number].get_textpage().get_text_bounded())

    def codes(self, number: int = 0) -> list[tuple[str, str]]:
        """Return the codes that a scanner reads at 203 dpi, from top to bottom."""
        with closing(pypdfium2.PdfDocument(self._content)) as document:
            image = document[number].render(scale=DOTS).to_pil()
        barcodes = sorted(zxingcpp.read_barcodes(image), key=lambda code: code.position.top_left.y)
        return [(code.format.name, code.text) for code in barcodes]


def printed(*slips: Slip, size: PrintSize = PrintSize.TALL, lang: str = "zh-CN") -> Printed:
    return Printed(pdf.draw([layout.label(slip, size, lang) for slip in slips]))


def boxes(page: layout.Page) -> Sequence[tuple[float, float, float, float]]:
    """Return the area of each mark."""
    areas = []
    for mark in page.marks:
        match mark:
            case layout.Text(x, y, text, size):
                height = size * layout.POINT
                areas.append((x, y - 0.75 * height, x + width(text, size), y + 0.1 * height))
            case layout.Bars(x, y, across, down):
                areas.append((x, y, x + across, y + down))
            case layout.Square(x, y, side):
                areas.append((x, y, x + side, y + side))
            case _:
                pass
    return areas


LONG = {
    "recipient": Person(name="Wolfeschlegelsteinhausen**", phone="138****5678-1234", place="非常长的街道名称" * 25),
    "sender": Person(name="恒单供应链管理有限公司上海仓", phone="021-****0001", place="上海市 青浦区 " + "华新镇" * 20),
    "label": Label(
        route="一二三四-五六七八-九十 大头笔非常长 ABC", hub="集包" * 12, origin="上海", product="标准快递" * 4
    ),
    "goods": tuple(Good(sku=f"SKU-{n:05}", title="", title_zh="", quantity=n) for n in range(1, 60)),
    "cash": Decimal("1234567.89"),
    "number": 12,
    "order_no": "2026" * 12,
    "carrier": "中国邮政速递物流股份有限公司",
    "waybill_no": "JDVB12345678901-1-1-",
}


@pytest.mark.parametrize("size", SIZES[PrintKind.LABEL])
@pytest.mark.parametrize("number", ["SF1330203456789", "YT8801234567890", "773001234567890", "JDVB12345678901-1-1-"])
def test_both_barcodes_and_the_qr_code_scan(size: PrintSize, number: str) -> None:
    read = printed(a_slip(waybill_no=number), size=size).codes()
    assert read == [("Code128", number), ("QRCode", number), ("Code128", number)]


def test_carriers_own_qr_code_is_printed() -> None:
    theirs = "MMM={'k1':'755WF','k2':'755WE','k3':'003','k5':'SF1330203456789','k6':'深圳'}"
    read = printed(a_slip(label=Label(qr=theirs))).codes()
    assert ("QRCode", theirs) in read


@pytest.mark.parametrize("size", SIZES[PrintKind.LABEL])
def test_every_text_is_on_the_label(size: PrintSize) -> None:
    text = printed(a_slip(cash=Decimal("128.5"), number=2), size=size).text()
    expected = (
        "顺丰速运",
        "755WF-571-003",
        "杭州集散",
        "021→755",
        "王**",
        "138****5678",
        "广东省深圳市南山区粤海街道科技园1203室",
    )
    more = ("恒单上海仓", "上海市青浦区华新镇仓储路1号", "A001×2", "1001", "0.44kg", "代收货款¥128.50", "补打2")
    for each in (*expected, *more):
        assert each in text, each
    assert text.count("SF1330203456789") == 2


@pytest.mark.parametrize("size", SIZES[PrintKind.LABEL])
def test_missing_facts_leave_no_empty_field(size: PrintSize) -> None:
    """YTO gives only a route: its label has no empty field, and more room for the rest."""
    (with_hub, *_), (without, *_) = (
        [mark for mark in layout.label(a_slip(label=label), size, "zh-CN").marks if isinstance(mark, layout.Bars)]
        for label in (Label(route="300-012", hub="杭州集散"), Label(route="300-012"))
    )
    assert without.height > with_hub.height
    assert printed(a_slip(label=Label(route="300-012")), size=size).text().count("王**138****5678") == 2


def test_first_print_without_cash_has_no_reprint_or_cash_mark() -> None:
    text = printed(a_slip()).text()
    assert "补打" not in text
    assert "代收" not in text


def test_rare_characters_are_printed_and_missing_ones_are_a_box() -> None:
    place = "䶮路㙦村\u200d\ufe0f 9号🎂"
    text = printed(a_slip(recipient=Person(name="𠮷*", phone="138****5678", place=place))).text()
    assert "□*138****5678" in text
    assert "䶮路㙦村9号□" in text
    assert legible("𬭚𫖯") == "𬭚𫖯"


@pytest.mark.parametrize("size", SIZES[PrintKind.LABEL])
@pytest.mark.parametrize("lang", ["zh-CN", "en"])
@pytest.mark.parametrize("changes", [{}, LONG], ids=["usual", "long"])
def test_nothing_overlaps_or_leaves_the_page(size: PrintSize, lang: str, changes: dict[str, Any]) -> None:
    page = layout.label(a_slip(cash=Decimal(9)).model_copy(update=changes), size, lang)
    covered = boxes(page)
    for left, top, right, bottom in covered:
        assert left >= 2.9
        assert right <= page.width - 2.9
        assert top >= 0.5
        assert bottom <= page.height
    for at, (left, top, right, bottom) in enumerate(covered):
        for other_left, other_top, other_right, other_bottom in covered[at + 1 :]:
            apart = right <= other_left or other_right <= left or bottom <= other_top or other_bottom <= top
            assert apart, (page.marks, left, top)


def test_long_texts_are_shortened_but_never_the_waybill_number() -> None:
    document = printed(a_slip().model_copy(update=LONG))
    assert "…" in document.text()
    assert document.codes()[0] == ("Code128", LONG["waybill_no"])


def test_zpl_matches_the_layout_in_dots() -> None:
    content = zpl.draw([layout.label(a_slip(), PrintSize.TALL, "zh-CN")] * 2, 203, None).decode()
    assert content.count("^XA^CI28^PW800^LL1440") == content.count("^XZ") == 2
    assert len(re.findall(r"\^BY4\^BCN,\d+,N,N,N,A\^FH\^FDSF1330203456789\^FS", content)) == 4
    assert re.search(r"\^BQN,2,\d+\^FH\^FDMA,SF1330203456789\^FS", content)
    assert "^A0N,40,40^FH^FD王** 138****5678^FS" in content
    finer = zpl.draw([layout.label(a_slip(), PrintSize.SHORT, "zh-CN")], 300, "E:SIMSUN.TTF").decode()
    assert "^PW1200^LL1800" in finer
    assert "^A@N,59,59,E:SIMSUN.TTF^FH^FD王**" in finer
    assert "^A0" not in finer


def test_zpl_fields_are_escaped() -> None:
    """Texts of buyers and carriers cannot become commands."""
    slip = a_slip(
        order_no="1^XZ~JR_2\\&",
        recipient=Person(name="^FS*", phone="~HS", place="路^FS^XZ^XA^DFR:X.ZPL^FS"),
        label=Label(qr="深圳^FS_"),
        waybill_no="SF1^XA",
    )
    content = zpl.draw([layout.label(slip, PrintSize.TALL, "zh-CN")], 203, None).decode()
    data = re.findall(r"\^FD(.*?)\^FS\n", content)
    assert len(data) == content.count("^FD") == content.count("^FH")
    assert not any(re.search(r"[\^~]", each) for each in data)
    commands = set(re.findall(r"[\^~][A-Z@]\w?", re.sub(r"\^FD.*?\^FS", "", content)))
    assert commands == {"^XA", "^CI", "^PW", "^LL", "^LH", "^FO", "^FT", "^A0", "^FR", "^GB", "^BY", "^BC", "^BQ"} | {
        "^FS",
        "^FH",
        "^XZ",
    }
    assert "_5EFS_5EXZ_5EXA" in content
    assert "MM,B0010深圳_5EFS_5F" in content

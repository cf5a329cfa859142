"""Labels are rendered, scanned and read."""

import re
import zlib
from base64 import b64decode
from binascii import crc_hqx
from collections.abc import Sequence
from contextlib import closing
from decimal import Decimal
from typing import Any
from unicodedata import category, normalize

import pypdfium2
import pytest
import zxingcpp
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from activities.fulfillment.labels import layout, pdf, zpl
from activities.fulfillment.labels.font import MISSING, font, legible, runs, width
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


NAMES = {
    "Polish": ("Łukasz Żółć", "ul. Świętokrzyska 12/4, Łódź"),
    "Turkish": ("Işıl Gümüş", "Bağdat Caddesi, İstanbul"),
    "Vietnamese": ("Nguyễn Thị Hường", "Phường Bến Nghé, Thành phố Hồ Chí Minh"),
    "Yoruba, decomposed": ("O\u0323\u0301lá", "E\u0323\u0300kó"),
    "Greek": ("Γιώργος", "Οδός Ερμού 12, Αθήνα"),
    "Cyrillic": ("Владимир Їжакевич", "вул. Хрещатик 1, Київ"),
    "Armenian": ("Արամ Խաչատրյան", "Երևան"),
    "Georgian": ("შოთა რუსთაველი", "თბილისი"),
    "Hebrew": ("דוד בן־גוריון", "רחוב הרצל (12) דירה 5, תל אביב"),
    "Arabic": ("محمد بن عبد الله", "شارع التحرير (البرج) ١٢, القاهرة"),
    "Persian": ("علی\u200cرضا", "تهران، خیابان ولیعصر، پلاک ۱۲۳"),
    "Thai": ("สมชาย ใจดี", "ถนนสุขุมวิท แขวงคลองเตย กรุงเทพมหานคร ที่ ปั่น"),
    "Lao": ("ສົມພອນ", "ວຽງຈັນ"),
    "Khmer": ("សុខា", "ភ្នំពេញ"),
    "Burmese": ("အောင်ဆန်း", "ရန်ကုန်"),
    "Devanagari": ("क्षितिज श्रीवास्तव", "महात्मा गांधी मार्ग, मुंबई"),
    "Bengali": ("রবীন্দ্রনাথ", "কলকাতা"),
    "Tamil": ("தமிழ்செல்வன்", "சென்னை"),
    "Telugu": ("రామారావు", "హైదరాబాద్"),
    "Sinhala": ("සමන්", "කොළඹ"),
    "Amharic": ("አበበ በቂላ", "አዲስ አበባ"),
    "Korean": ("김철수", "서울특별시 강남구 테헤란로 152"),
    "Japanese": ("𠮷野家", "広島県𠮟田町 葛\U000e0100城市 が"),
    "Chinese, rare": ("𠮷𣲘𬭚𫖯", "䶮路㙦村𰻝"),
    "emoji": ("🎂小明👨\u200d👩\u200d👧", "幸福路1号❤\ufe0f 1\ufe0f\u20e3 🇨🇳👍🏽"),
}


def a_label_to(name: str, place: str, size: PrintSize = PrintSize.TALL) -> layout.Page:
    return layout.label(a_slip(recipient=Person(name=name, phone="+20****5678", place=place)), size, "en")


def drawn(page: layout.Page) -> list[list[tuple[str, str]]]:
    """Return the runs of each text, from left to right."""
    return [list(runs(mark.text, mark.right_to_left)) for mark in page.marks if isinstance(mark, layout.Text)]


def without_glyph(page: layout.Page) -> set[str]:
    """Return the characters that would be printed as an empty box or not at all."""
    every = {(name, char) for line in drawn(page) for name, run in line for char in run}
    return {char for name, char in every if ord(char) not in font(name).face.charToGlyph and char not in "\u200c\u200d"}


@pytest.mark.parametrize(("name", "place"), NAMES.values(), ids=NAMES)
def test_a_name_of_any_script_is_printed_whole(name: str, place: str) -> None:
    page = a_label_to(name, place)
    assert page.missing == without_glyph(page) == set()
    assert MISSING not in legible(name + place)
    assert Printed(pdf.draw([page])).codes()[0] == ("Code128", "SF1330203456789")


@given(st.text(max_size=40), st.text(max_size=120))
@settings(max_examples=60, deadline=None)
def test_each_character_is_printed_or_named_as_missing(name: str, place: str) -> None:
    page = a_label_to(name, place)
    assert not without_glyph(page)
    texts = normalize("NFC", name) + normalize("NFC", place)
    shown = legible(name) + legible(place)
    invisible = {char for char in texts if category(char) in ("Cf", "Mn") or char.isspace()}
    assert set(texts) - invisible <= set(shown) | page.missing
    assert bool(page.missing) == (MISSING in shown.replace(MISSING, "", texts.count(MISSING)))


def test_texts_from_right_to_left_keep_brackets_numbers_and_the_phone_in_place() -> None:
    (name, place) = (line for line in drawn(a_label_to("محمد", "شارع (البرج) ۱۲۳، EG"))[7:9])
    assert [run for _, run in name] == ["محمد", " +20****5678"]
    assert "".join(run for _, run in place) == "EG ،۱۲۳ (البرج) شارع"
    assert [run for _, run in runs("רחוב (12)", right_to_left=True)] == ["(12) ", "רחוב"]


def test_a_character_that_no_font_has_is_a_box_and_is_named() -> None:
    page = a_label_to("𒀀*", "䶮路㙦村\u200d\ufe0f \ue000 9号")
    assert page.missing == {"𒀀", "\ue000"}
    text = Printed(pdf.draw([page])).text()
    assert "□*+20****5678" in text
    assert "䶮路㙦村□9号" in text
    listed = layout.packing_list(a_slip(note="𒀀", goods=LONG["goods"]), PrintSize.A5, "en")
    assert [page.missing for page in listed][-1] == {"𒀀"}


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
    content = zpl.draw([layout.label(a_slip(), PrintSize.TALL, "zh-CN")] * 2, 203, "E:SIMSUN.TTF").decode()
    assert content.count("^XA^CI28^PW800^LL1440") == content.count("^XZ") == 2
    assert len(re.findall(r"\^BY4\^BCN,\d+,N,N,N,A\^FH\^FDSF1330203456789\^FS", content)) == 4
    assert re.search(r"\^BQN,2,\d+\^FH\^FDMA,SF1330203456789\^FS", content)
    assert "^A@N,40,40,E:SIMSUN.TTF^FH^FD王** 138****5678^FS" in content
    finer = zpl.draw([layout.label(a_slip(), PrintSize.SHORT, "zh-CN")], 300, "E:SIMSUN.TTF").decode()
    assert "^PW1200^LL1800" in finer
    assert "^A@N,59,59,E:SIMSUN.TTF^FH^FD王**" in finer
    assert "^A0" not in finer
    foreign = a_slip(
        carrier="UPS",
        label=Label(route="DEU 1"),
        sender=Person(name="Hengdan", phone="", place="London"),
        recipient=Person(name="Jörg", phone="", place="Köln"),
    )
    latin = zpl.draw([layout.label(foreign, PrintSize.TALL, "en")], 203, None).decode()
    assert "^A0N,40,40^FH^FDJörg" in latin
    assert "^GF" not in latin


@pytest.mark.parametrize("printers", [None, "E:SIMSUN.TTF"])
def test_zpl_prints_as_a_picture_what_the_printers_font_may_lack(printers: str | None) -> None:
    """The picture is the page of the PDF in dots; the barcodes stay commands."""
    page = a_label_to("محمد", "Łódź 𠮷")
    content = zpl.draw([page], 203, printers).decode()
    (field,) = re.findall(r"\^FO0,0\^GFA,144000,144000,100,:Z64:([^:]+):([0-9A-F]{4})\^FS", content)
    packed, checksum = field
    assert int(checksum, 16) == crc_hqx(packed.encode(), 0)
    dots = Image.frombytes("1", (800, 1440), zlib.decompress(b64decode(packed)))
    with closing(pypdfium2.PdfDocument(pdf.draw([page]))) as document:
        whole = document[0].render(scale=8 * layout.POINT, grayscale=True).to_pil().crop((0, 0, 800, 1440))
    rows = next((mark.y, mark.y + mark.height) for mark in page.marks if isinstance(mark, layout.Box))
    badge = (0, round(rows[0] * 8) - 40, 800, round(rows[1] * 8) + 40)
    black = whole.crop(badge).point(lambda grey: 255 if grey < 160 else 0).convert("1", dither=Image.Dither.NONE)
    assert dots.crop(badge).tobytes() == black.tobytes()
    assert sum(dots.crop(badge).histogram()[1:]) > 5000
    assert set(re.findall(r"\^FD(.*?)\^FS", content)) == {"SF1330203456789", "MA,SF1330203456789"}


def test_zpl_fields_are_escaped() -> None:
    """Texts of buyers and carriers cannot become commands."""
    slip = a_slip(
        order_no="1^XZ~JR_2\\&",
        recipient=Person(name="^FS*", phone="~HS", place="路^FS^XZ^XA^DFR:X.ZPL^FS"),
        label=Label(qr="深圳^FS_"),
        waybill_no="SF1^XA",
    )
    content = zpl.draw([layout.label(slip, PrintSize.TALL, "zh-CN")], 203, "E:SIMSUN.TTF").decode()
    data = re.findall(r"\^FD(.*?)\^FS\n", content)
    assert len(data) == content.count("^FD") == content.count("^FH")
    assert not any(re.search(r"[\^~]", each) for each in data)
    commands = set(re.findall(r"[\^~][A-Z@]\w?", re.sub(r"\^FD.*?\^FS", "", content)))
    assert commands == {"^XA", "^CI", "^PW", "^LL", "^LH", "^FO", "^FT", "^A", "^FR", "^GB", "^BY", "^BC", "^BQ"} | {
        "^FS",
        "^FH",
        "^XZ",
    }
    assert "_5EFS_5EXZ_5EXA" in content
    assert "MM,B0010深圳_5EFS_5F" in content

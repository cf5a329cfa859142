"""Labels as they come out of the printer: rendered, and their barcodes read."""

import re
from decimal import Decimal
from typing import Any

import pypdfium2
import pytest
import zxingcpp

from activities.labels import masked, pdf, zpl
from models.address import Addressee
from models.fulfillment import FulfillmentLine, Label
from models.printing import Paper, Sheet

PHONE = "13900139000"


def person(**facts: Any) -> Addressee:
    told = {"name": "韩梅梅", "phone": PHONE, "country": "CN", "province": "浙江省", "city": "杭州市"}
    return Addressee(**{**told, "district": "西湖区", "street": "文三路100号", **facts})


def sheet(**facts: Any) -> Sheet:
    told: dict[str, Any] = {
        "fulfillment_id": "order:own:web:1:F1",
        "order_no": "1234567890",
        "shop": "web",
        "carrier": "sf",
        "waybill_no": "SF7444400000001",
        "label": Label(route="571WB-BB-018", hub="杭州中转", product="T4", qr="MMM={'k1':'571W'}"),
        "sender": person(name="青浦仓"),
        "recipient": person(),
        "lines": (FulfillmentLine(line_no="1", sku="A001", quantity=2),),
        "titles": {"A001": "白色T恤"},
        "weight_kg": Decimal("1.25"),
    }
    return Sheet(**told | facts)


def seen(data: bytes) -> list[tuple[str, list[tuple[str, str]]]]:
    """Of each page its text, and its barcodes as a scanner reads them."""
    pages = []
    with pypdfium2.PdfDocument(data) as document:
        for page in document:
            codes = zxingcpp.read_barcodes(page.render(scale=4).to_pil())
            pages.append((page.get_textpage().get_text_bounded(), [(code.format.name, code.text) for code in codes]))
    return pages


@pytest.mark.parametrize("paper", Paper)
def test_a_label_is_read_by_scanner_and_person(paper: Paper) -> None:
    ((text, codes),) = seen(pdf.labels([sheet()], paper, "zh-CN"))
    assert codes.count(("Code128", "SF7444400000001")) == 2
    assert ("QRCode", "MMM={'k1':'571W'}") in codes
    for words in ("571WB-BB-018", "杭州中转", "韩梅梅", "139****9000", "文三路100号", "A001 × 2", "1.25"):
        assert words in text
    assert "补打" not in text
    assert "代收" not in text


def test_no_label_tells_a_phone() -> None:
    for made in (pdf.labels([sheet()], Paper.HIGH, "zh-CN"), zpl.labels([sheet()], Paper.HIGH, "zh-CN")):
        assert PHONE.encode() not in made
    assert PHONE not in seen(pdf.labels([sheet()], Paper.HIGH, "en"))[0][0]
    assert masked("13800001234-5678") == "138****1234-5678"
    assert masked("110") == "****"


def test_what_is_to_be_collected_and_printed_again_stands_out() -> None:
    told = sheet(cash_on_delivery=Decimal(59), printed=1)
    ((text, _),) = seen(pdf.labels([told], Paper.HIGH, "zh-CN"))
    assert "代收 59.00" in text
    assert "补打 2" in text


def test_long_addresses_and_many_goods_stay_on_the_label_and_leave_the_code_readable() -> None:
    long = person(name="阿布都热合曼·买买提江先生", street="某某街道某某路一千二百三十四号" * 6)
    goods = tuple(FulfillmentLine(line_no=str(n), sku=f"VERY-LONG-SKU-{n:04}", quantity=n) for n in range(1, 40))
    for paper in Paper:
        ((text, codes),) = seen(pdf.labels([sheet(recipient=long, lines=goods)], paper, "zh-CN"))
        assert codes.count(("Code128", "SF7444400000001")) == 2
        assert re.sub(r"\s", "", text).count("某某街道某某路一千二百三十四号") >= 6


def test_a_sign_that_the_font_lacks_is_shown_as_missing() -> None:
    ((text, _),) = seen(pdf.labels([sheet(recipient=person(name="\U00030000田"))], Paper.HIGH, "zh-CN"))
    assert "〓田" in text


def test_hundreds_are_one_file_in_the_order_asked_for() -> None:
    many = [sheet(waybill_no=f"SF{7_000_000_000_000 + n}") for n in range(200)]
    with pypdfium2.PdfDocument(pdf.labels(many, Paper.HIGH, "zh-CN")) as document:
        assert len(document) == 200
        assert "SF70 0000 0000 199" in document[199].get_textpage().get_text_bounded()


def test_a_packing_list_names_goods_in_both_languages() -> None:
    ((chinese, _),) = seen(pdf.packing_lists([sheet()], "zh-CN"))
    ((english, _),) = seen(pdf.packing_lists([sheet()], "en"))
    assert "发货清单" in chinese
    assert "Packing list" in english
    assert "白色T恤" in chinese


def test_zpl_says_each_field_and_hides_what_would_be_a_command() -> None:
    made = zpl.labels([sheet(recipient=person(street="A^B~C_D\n1号")), sheet()], Paper.LOW, "zh-CN", dpi=300).decode()
    assert (made.count("^XA"), made.count("^XZ")) == (2, 2)
    assert "^PW1200^LL1800" in made
    assert "A_5EB_7EC_5FD 1号" in made
    assert "^FDSF7444400000001^FS" in made
    assert "^BQN" in made

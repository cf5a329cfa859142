"""Label pages per second: hundreds in one file, each in a file of its own, as ZPL; beside bare reportlab in one run."""

import io
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from statistics import median
from typing import Any

from reportlab.graphics.barcode.code128 import Code128
from reportlab.graphics.barcode.qr import QrCode
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas

from activities.fulfillment.labels import layout, pdf, zpl
from activities.fulfillment.labels.font import NAME
from activities.fulfillment.labels.layout import Bars, Page, Square, Text
from models.fulfillment import Label
from models.labels import Good, Person, PrintSize, Slip

PAGES = 500
ROUNDS = 3
SIZE = PrintSize.TALL
_STREETS = ("粤海街道科技园路", "世纪大道", "文三路", "天府大道中段", "听雨里")


def slip(number: int) -> Slip:
    """Of invented data, like no other."""
    waybill_no = f"SF{1_330_200_000_000 + number}"
    return Slip(
        fulfillment_id=f"order:own:bench:{number}:F1",
        order_no=f"2026112300{number:04}",
        shop="own:bench",
        warehouse="上海仓",
        carrier="顺丰速运",
        waybill_no=waybill_no,
        label=Label(route=f"755WF-571-{number:03}", hub="杭州集散", origin="021", destination="755"),
        recipient=Person(
            name="王**", phone="138****5678", place=f"广东省 深圳市 南山区 {_STREETS[number % len(_STREETS)]}{number}号"
        ),
        sender=Person(name="恒单上海仓", phone="021-****0001", place="上海市 青浦区 华新镇仓储路1号"),
        goods=(Good(sku="A001", title="", title_zh="", quantity=1 + number % 3),),
        weight_kg=Decimal("0.44"),
    )


def report() -> list[dict[str, Any]]:
    """By way, medians of several rounds that take turns: pages a second, as a part of bare reportlab's, kB a page."""
    slips = [slip(number) for number in range(PAGES)]
    pages = [layout.label(each, SIZE, "zh-CN") for each in slips]
    ways: dict[str, Callable[[], list[bytes]]] = {
        "bare reportlab, one file": lambda: [_bare(pages)],
        "one file": lambda: [pdf.draw(_laid_out(slips))],
        "a file each": lambda: [pdf.draw(_laid_out([each])) for each in slips],
        "ZPL": lambda: [zpl.draw(_laid_out(slips), 203, None)],
    }
    pdf.draw(pages[:1])
    taken: dict[str, list[float]] = {way: [] for way in ways}
    sizes: dict[str, int] = {}
    for _ in range(ROUNDS):
        for way, make in ways.items():
            begun = time.perf_counter()
            files = make()
            taken[way].append(time.perf_counter() - begun)
            sizes[way] = sum(map(len, files))
    floor = median(taken["bare reportlab, one file"])
    return [
        {
            "way": way,
            "pages_per_second": round(PAGES / median(seconds)),
            "ratio": round(floor / median(seconds), 2),
            "kb_per_page": round(sizes[way] / PAGES / 1000, 1),
        }
        for way, seconds in taken.items()
    ]


def _laid_out(slips: Sequence[Slip]) -> list[Page]:
    return [layout.label(each, SIZE, "zh-CN") for each in slips]


def _bare(pages: Sequence[Page]) -> bytes:
    """The same texts and codes at the same places by reportlab's own means: nothing is fitted, no lines are drawn."""
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=(pages[0].width * mm, pages[0].height * mm))
    for page in pages:
        for mark in page.marks:
            match mark:
                case Text(x, y, text, size):
                    canvas.setFont(NAME, size)
                    canvas.drawString(x * mm, (page.height - y) * mm, text)
                case Bars(x, y, _, height, content):
                    bars = Code128(content, barWidth=0.5 * mm, barHeight=height * mm, quiet=False)
                    bars.drawOn(canvas, x * mm, (page.height - y - height) * mm)
                case Square(x, y, side, content):
                    code = QrCode(content, width=side * mm, height=side * mm, qrLevel="M")
                    code.drawOn(canvas, x * mm, (page.height - y - side) * mm)
        canvas.showPage()
    canvas.save()
    return file.getvalue()

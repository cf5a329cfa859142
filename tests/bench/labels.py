"""Label pages per second: in one file, in one file each, and as ZPL; compared with bare reportlab in the same run."""

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
    """Return a distinct slip of invented data."""
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
    """Return the medians of alternating rounds by format: pages per second, ratio to bare reportlab, kB per page."""
    slips = [slip(number) for number in range(PAGES)]
    pages = [layout.label(each, SIZE, "zh-CN") for each in slips]
    formats: dict[str, Callable[[], list[bytes]]] = {
        "bare reportlab, one file": lambda: [_bare(pages)],
        "one file": lambda: [pdf.draw(_laid_out(slips))],
        "one file each": lambda: [pdf.draw(_laid_out([each])) for each in slips],
        "ZPL": lambda: [zpl.draw(_laid_out(slips), 203, None)],
    }
    pdf.draw(pages[:1])
    durations: dict[str, list[float]] = {way: [] for way in formats}
    sizes: dict[str, int] = {}
    for _ in range(ROUNDS):
        for way, make in formats.items():
            started = time.perf_counter()
            files = make()
            durations[way].append(time.perf_counter() - started)
            sizes[way] = sum(map(len, files))
    floor = median(durations["bare reportlab, one file"])
    return [
        {
            "format": way,
            "pages_per_second": round(PAGES / median(seconds)),
            "ratio": round(floor / median(seconds), 2),
            "kb_per_page": round(sizes[way] / PAGES / 1000, 1),
        }
        for way, seconds in durations.items()
    ]


def _laid_out(slips: Sequence[Slip]) -> list[Page]:
    return [layout.label(each, SIZE, "zh-CN") for each in slips]


def _bare(pages: Sequence[Page]) -> bytes:
    """Draw the same texts and codes at the same positions with reportlab alone, without fitted text or lines."""
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

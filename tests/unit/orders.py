"""Orders for tests."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from models.address import Recipient
from models.order import ChannelOrder, OrderLine
from models.origins import ChannelKind, IntakePath, Origin

RECIPIENT = Recipient(
    name="王小明",
    phone="13812345678",
    province="上海",
    city="上海市",
    district="浦东新区",
    street="世纪大道100号3栋502",
)


def line(number: int = 1, sku: str = "A001", quantity: int = 1, price: str = "50", discount: str = "0") -> OrderLine:
    return OrderLine(
        line_no=str(number), sku=sku, quantity=quantity, unit_price=Decimal(price), discount=Decimal(discount)
    )


def an_order(number: str = "1001", *lines: OrderLine, **changes: Any) -> ChannelOrder:
    """A paid own-site order to Shanghai of one A001, unless changed."""
    now = datetime.now(UTC)
    lines = lines or (line(),)
    given: dict[str, Any] = {
        "channel": "own",
        "shop": "web",
        "channel_order_no": number,
        "placed_at": now,
        "modified_at": now,
        "paid_at": now,
        "lines": lines,
        "total": sum((each.unit_price * each.quantity - each.discount for each in lines), Decimal(0)),
        "recipient": RECIPIENT,
        "origin": Origin(kind=ChannelKind.OWN_SITE, platform="own", shop="web", intake=IntakePath.WEBHOOK),
    }
    return ChannelOrder(**given | changes)

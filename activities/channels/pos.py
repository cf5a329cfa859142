"""Shop counters: sales made at a till and shipped from a warehouse, in our own format.

A till authenticates with an API key, so nothing is signed. Tills queue sales while offline and send them again: store,
terminal and receipt number identify a sale, whatever else a repeated message holds.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Annotated

from pydantic import BaseModel, Field

from activities.channels import PulledOrder
from activities.channels.own import Sold, sale_order
from activities.kit.errors import Unintelligible
from activities.kit.lenient import decode_order
from activities.kit.payloads import decode
from models.accounts import AccountFields
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import NORMAL, URGENT, ChannelOrder
from models.origins import ChannelKind, IntakePath, Origin

ACCOUNT = AccountFields(
    console="pos",
)

Place = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,20}$")]


class _Sale(BaseModel):
    """What identifies a sale."""

    store: Place
    terminal: Place
    receipt_no: Place

    @property
    def number(self) -> str:
        return f"{self.store}-{self.terminal}-{self.receipt_no}"


class PosOrder(_Sale, Sold):
    """A counter sale, already paid. Send it again with ``cancelled_at`` to cancel it."""


class _Event(_Sale):
    urgent: bool = False
    cancelled_at: str | None = None


class Pos:
    signed = False

    def __init__(self, account: Account) -> None:
        self._account = account

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Identify the sale. The API key was already checked."""
        try:
            event = decode(_Event, body)
        except Unintelligible:
            return Receipt(fact_key=sha256(body).hexdigest(), topic="sale")
        topic = "cancellation" if event.cancelled_at else "sale"
        priority = URGENT if event.urgent else NORMAL
        return Receipt(fact_key=f"{event.number}:{topic}", topic=topic, priority=priority)

    def parse(self, body: bytes, topic: str) -> ChannelOrder | None:
        sale, odd = decode_order(PosOrder, body, "store", "terminal", "receipt_no")
        origin = Origin(
            kind=ChannelKind.STORE,
            platform=self._account.source,
            shop=sale.store,
            region=sale.recipient.region,
            campaign=sale.campaign,
            intake=IntakePath.WEBHOOK,
        )
        return sale_order(
            odd,
            sale,
            self._account,
            origin,
            sale.number,
            sale.cancelled_at or sale.placed_at,
            sale.paid_at or sale.placed_at,
            terminal=sale.terminal,
            receipt_no=sale.receipt_no,
        )

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """Yield nothing: tills send their sales."""
        return
        yield

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Do nothing: tills take no shipments."""


def adapter(account: Account) -> Pos:
    return Pos(account)

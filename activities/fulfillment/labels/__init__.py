"""Labels and packing lists of fulfillment orders: draw and number them, and store the files for a day.

Prints mask the recipient as carriers do: the first character of the name, the phone without its middle digits.
"""

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx
from sqlalchemy import ARRAY, Integer, Row, Select, String, cast, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.accounts.accounts import get_carrier_account, shop_name
from activities.carriers import display_name, label_hosts, label_language, mask_personal_data
from activities.fulfillment.fulfillment_orders import FULFILLMENT_ORDERS, PACKED_GOODS, packed_lines, parcel_value
from activities.kit import http
from activities.kit.database import transaction
from models.address import Addressee, Recipient
from models.fulfillment import FulfillmentRow, FulfillmentStatus, Label
from models.intake import ChannelOrderRow
from models.labels import DocumentRow, Good, Person, PrintFormat, PrintJob, PrintKind, PrintRow, Slip
from models.order import OrderLine, OrderRow, TimelineRow
from models.settings import settings
from models.stock import SkuRow, WarehouseRow
from models.vault import keyring, readable

if TYPE_CHECKING:
    from activities.fulfillment.labels.layout import Picture  # loaded on first use, with the libraries that draw

RETENTION = timedelta(days=1)
"""How long a file can be downloaded. It is short because files contain addresses."""
CONTENT_TYPES = {PrintFormat.PDF: "application/pdf", PrintFormat.ZPL: "application/zpl"}
WAITING = (
    FulfillmentStatus.SCHEDULED,
    FulfillmentStatus.OPEN,
    FulfillmentStatus.IN_PROGRESS,
    FulfillmentStatus.ON_HOLD,
)
"""Of fulfillment orders that are still to leave their warehouse."""
MAX_DOWNLOAD_ATTEMPTS = 3
"""Attempts to download a label drawn by the carrier."""

_fulfillments = FulfillmentRow.__table__  # type: ignore[attr-defined]
_orders = OrderRow.__table__  # type: ignore[attr-defined]
_warehouses = WarehouseRow.__table__  # type: ignore[attr-defined]
_skus = SkuRow.__table__  # type: ignore[attr-defined]
_channel_orders = ChannelOrderRow.__table__  # type: ignore[attr-defined]
_prints = PrintRow.__table__  # type: ignore[attr-defined]
_documents = DocumentRow.__table__  # type: ignore[attr-defined]
_timeline = TimelineRow.__table__  # type: ignore[attr-defined]

_titles = (
    select(func.jsonb_object_agg(_skus.c.sku, func.jsonb_build_array(_skus.c.title, _skus.c.title_zh)))
    .select_from(PACKED_GOODS.join(_skus, _skus.c.sku == PACKED_GOODS.c.sku))
    .scalar_subquery()
)
_slips: Select[Any] = FULFILLMENT_ORDERS.add_columns(
    _warehouses.c.name.label("warehouse_name"),
    _warehouses.c.name_zh.label("warehouse_name_zh"),
    _titles.label("titles"),
)
_slips_with_notes: Select[Any] = _slips.add_columns(_channel_orders.c.document).outerjoin(
    _channel_orders, _channel_orders.c.order_id == _fulfillments.c.order_id
)


async def wanted(
    connection: AsyncConnection,
    kind: PrintKind,
    most: int,
    *,
    fulfillments: Collection[str] | None = None,
    unprinted: bool = False,
    **columns: str | None,
) -> list[str]:
    """Return the ids of printable fulfillment orders, oldest first, filtered by id and by column values.

    Without ids and without a status, those that have left are not among them.
    Return at most ``most + 1`` ids, so that the caller sees whether there are more than ``most``.
    """
    query = select(_fulfillments.c.id).where(_fulfillments.c.status != FulfillmentStatus.CANCELLED)
    if fulfillments is None and columns.get("status") is None:
        query = query.where(_fulfillments.c.status.in_(WAITING))
    if kind is PrintKind.LABEL:
        query = query.where(_fulfillments.c.waybill_no.is_not(None))
    if fulfillments is not None:
        query = query.where(_fulfillments.c.id.in_(fulfillments))
    for name, value in columns.items():
        if value is not None:
            query = query.where(_fulfillments.c[name] == value)
    if unprinted:
        printed = select(_prints.c.number).where(_prints.c.fulfillment_id == _fulfillments.c.id, _prints.c.kind == kind)
        query = query.where(~printed.exists())
    query = query.order_by(_fulfillments.c.opened_at, _fulfillments.c.id).limit(most + 1)
    return list(await connection.scalars(query))


@activity.defn(name="fulfillment.draw_labels")
async def draw_part(job: PrintJob, document: str, part: int) -> dict[str, str]:
    """Draw the job's fulfillment orders and store them as a part of the document; return those left out, with reasons.

    A retry draws the same pages under the same print numbers.
    """
    left_out: dict[str, str] = {}
    async with transaction() as connection:
        slips = await gather(connection, job)
    finished: dict[str, Picture] = {}
    for fulfillment_id in job.fulfillments:
        slip = slips.get(fulfillment_id)
        activity.heartbeat()
        if slip is None or (job.kind is PrintKind.LABEL and not slip.waybill_no):
            left_out[fulfillment_id] = "print.not_ready"
        elif job.kind is PrintKind.LABEL and slip.label.url:
            if job.format is PrintFormat.ZPL:
                left_out[fulfillment_id] = "print.only_pdf"
            elif not await _is_label_host(slip.booked_with, slip.label.url):
                left_out[fulfillment_id] = "print.label_host"
            elif (picture := await _download_label(slip.label.url, job)) is None:
                left_out[fulfillment_id] = "print.not_had"
            else:
                finished[fulfillment_id] = picture
    drawn = [slips[each] for each in job.fulfillments if each not in left_out]
    if drawn:
        async with transaction() as connection:
            numbers = await _number(connection, job, document, [slip.fulfillment_id for slip in drawn])
            slips_now = [slip.model_copy(update={"number": numbers[slip.fulfillment_id]}) for slip in drawn]
            content = await asyncio.to_thread(_draw, job, slips_now, finished)
            await _store(connection, document, part, CONTENT_TYPES[job.format], content)
    return left_out


@activity.defn(name="fulfillment.purge_documents")
async def purge_expired_documents() -> int:
    """Delete expired files, and return how many there were."""
    async with transaction() as connection:
        old = await connection.execute(delete(_documents).where(_documents.c.expires_at < datetime.now(UTC)))
    return old.rowcount


@activity.defn(name="fulfillment.merge_labels")
async def merge_parts(document: str) -> None:
    """Merge the document's parts into one file."""
    from activities.fulfillment.labels import pdf

    async with transaction() as connection:
        query = select(_documents).where(_documents.c.id == document, _documents.c.part > 0).order_by(_documents.c.part)
        parts = (await connection.execute(query)).all()
        if not parts:
            return
        contents = [_decrypt(row) for row in parts]
        joined = pdf.merge if parts[0].content_type == CONTENT_TYPES[PrintFormat.PDF] else b"".join
        await _store(connection, document, 0, parts[0].content_type, await asyncio.to_thread(joined, contents))
        await connection.execute(delete(_documents).where(_documents.c.id == document, _documents.c.part > 0))


async def file(connection: AsyncConnection, document: str, actor: str) -> tuple[bytes, str] | None:
    """Return the document with its content type, until it expires; record the download on each order's timeline."""
    query = select(_documents).where(
        _documents.c.id == document, _documents.c.part == 0, _documents.c.expires_at > datetime.now(UTC)
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    short = func.split_part(_prints.c.fulfillment_id, _fulfillments.c.order_id + ":", 2)
    detail = func.jsonb_build_object("fulfillment", short, "kind", _prints.c.kind, "number", _prints.c.number)
    taken = (
        select(
            _fulfillments.c.order_id,
            literal("printed:") + document + ":" + short + ":" + actor,
            literal(datetime.now(UTC)),
            literal("timeline.printed"),
            literal(actor),
            detail,
        )
        .join(_fulfillments, _fulfillments.c.id == _prints.c.fulfillment_id)
        .where(_prints.c.document == document)
    )
    names = ["order_id", "key", "at", "what", "actor", "detail"]
    await connection.execute(insert(_timeline).from_select(names, taken).on_conflict_do_nothing())
    return _decrypt(row), row.content_type


async def gather(connection: AsyncConnection, job: PrintJob) -> dict[str, Slip]:
    """Return the slips by fulfillment order; leave out those cancelled or without an address."""
    query = _slips_with_notes if job.kind is PrintKind.PACKING_LIST else _slips
    query = query.where(_fulfillments.c.id.in_(job.fulfillments))
    rows = (await connection.execute(query)).all()
    slips: dict[str, Slip] = {}
    for row in rows:
        if row.status != FulfillmentStatus.CANCELLED and readable(row.recipient) and readable(row.sender):
            cash = None if row.paid_at else await parcel_value(connection, row)
            slips[row.id] = _slip(row, job, await shop_name(row.channel, row.shop), cash)
    return slips


def _slip(row: Row[Any], job: PrintJob, shop: str, cash: Decimal | None) -> Slip:
    lang = job.lang if job.kind is PrintKind.PACKING_LIST else label_language(row.carrier or "") or job.lang
    label = Label.model_validate(row.label or {})
    label = label.model_copy(update={"route": label.route or label.destination or row.recipient.city})
    carrier = label.courier or row.carrier
    channel_order = row._mapping.get("document")
    return Slip(
        fulfillment_id=row.id,
        order_no=row.channel_order_no,
        shop=shop,
        warehouse=(row.warehouse_name_zh if lang == "zh-CN" else "") or row.warehouse_name,
        carrier=display_name(carrier) if carrier else "",
        booked_with=row.carrier or "",
        waybill_no=row.waybill_no or "",
        label=label,
        recipient=_person(row.recipient, row.recipient.masked().name),
        sender=_person(row.sender, row.sender.name),
        goods=_goods(row),
        weight_kg=row.weight_kg or row.weight or Decimal(0),
        cash=cash or None,
        currency=row.currency,
        note=mask_personal_data(channel_order.buyer_message) if channel_order else "",
    )


def _goods(row: Row[Any]) -> tuple[Good, ...]:
    gifts = {line.line_no for line in map(OrderLine.model_validate, row.order_lines) if line.gift}
    packed: dict[tuple[str, bool], int] = {}
    for line in packed_lines(row):
        key = (line.sku, line.line_no in gifts)
        packed[key] = packed.get(key, 0) + line.quantity
    titles: Mapping[str, Sequence[str]] = row.titles or {}
    return tuple(
        Good(sku=sku, title=title, title_zh=title_zh, quantity=quantity, gift=gift)
        for (sku, gift), quantity in packed.items()
        for title, title_zh in [titles.get(sku, ("", ""))]
    )


def _person(recipient: Recipient, name: str) -> Person:
    """Return the person as printed. Chinese addresses start with the largest part, others with the smallest.

    The recipient's phone is masked within the address too.
    """
    if recipient.country == "CN":
        region = dict.fromkeys(part for part in (recipient.province, recipient.city, recipient.district) if part)
        place = " ".join([*region, recipient.full_street])
    else:
        parts = (
            recipient.full_street,
            recipient.district,
            recipient.city,
            recipient.province,
            recipient.postcode,
            recipient.country,
        )
        place = ", ".join(part for part in parts if part)
    phone = masked_phone(recipient)
    if len(recipient.digits) >= _MIN_DIGITS:
        place = re.sub(r"[\s-]?".join(recipient.digits), phone, place)
    return Person(name=name, phone=phone, place=place)


_MIN_DIGITS = 7
_WITH_EXTENSION = re.compile(r"(.*\d{7,})-(\d{1,6})")
_VISIBLE_PREFIX = re.compile(r"1\d\d(?=\d{8}$)|0\d{2,3}-|\+\d\d")
"""The prefix left unmasked: three digits of a mobile, the area or country code of other numbers."""


def masked_phone(person: Addressee) -> str:
    """Mask the phone: ``138****5678``, ``0755-****5678``. An extension is kept: ``184****0000-1234``."""
    phone = person.national_phone
    if "*" in phone:
        return phone
    extended = _WITH_EXTENSION.fullmatch(phone)
    number, extension = extended.groups() if extended else (phone, "")
    if len(number) < _MIN_DIGITS:
        return "****"
    shown = _VISIBLE_PREFIX.match(number)
    return f"{shown[0] if shown else ''}****{number[-4:]}{'-' * bool(extension)}{extension}"


async def _is_label_host(carrier: str, url: str) -> bool:
    """Return whether a label's host is one that the carrier publishes, or the host of our account with it."""
    account = await get_carrier_account(carrier)
    try:
        host, own = httpx.URL(url).host, {httpx.URL(account.base_url).host} if account is not None else set()
    except httpx.InvalidURL:
        return False
    return bool(host) and (
        host in own or any(host == each or host.endswith(f".{each}") for each in label_hosts(carrier))
    )


async def _download_label(url: str, job: PrintJob) -> "Picture | None":
    """Download a label drawn by the carrier; return ``None`` if it is unusable or the last attempt failed.

    Raise ``ApplicationError`` if another attempt may succeed.
    """
    from activities.fulfillment.labels import pdf
    from activities.fulfillment.labels.layout import Picture

    try:
        content = (await http.send("GET", url)).content
        picture = Picture(*job.size.mm, content)
        return picture._replace(content=await asyncio.to_thread(pdf.draw, [picture]))
    except ValueError:
        return None
    except ApplicationError as error:
        if error.non_retryable or activity.info().attempt >= MAX_DOWNLOAD_ATTEMPTS:
            return None
        raise


async def _number(connection: AsyncConnection, job: PrintJob, document: str, ids: list[str]) -> dict[str, int]:
    """Number these prints; a print already numbered for this document keeps its number."""
    given = select(func.unnest(cast(ids, ARRAY(String))).label("id")).subquery()
    before = select(func.max(_prints.c.number)).where(
        _prints.c.fulfillment_id == given.c.id, _prints.c.kind == job.kind
    )
    counted = select(
        given.c.id,
        literal(job.kind.value),
        func.coalesce(before.scalar_subquery(), 0) + cast(1, Integer),
        literal(document),
        literal(datetime.now(UTC)),
        literal(job.actor),
    )
    names = ["fulfillment_id", "kind", "number", "document", "at", "actor"]
    await connection.execute(
        insert(_prints)
        .from_select(names, counted)
        .on_conflict_do_nothing(index_elements=["document", "fulfillment_id"])
    )
    query = select(_prints.c.fulfillment_id, _prints.c.number).where(
        _prints.c.document == document, _prints.c.fulfillment_id.in_(ids)
    )
    return {row.fulfillment_id: row.number for row in await connection.execute(query)}


def _draw(job: PrintJob, slips: Sequence[Slip], finished: Mapping[str, "Picture"]) -> bytes:
    from activities.fulfillment.labels import layout, pdf, zpl
    from activities.fulfillment.labels.layout import Page

    pages: list[Page | Picture] = []
    for slip in slips:
        if slip.fulfillment_id in finished:
            pages.append(finished[slip.fulfillment_id])
        elif job.kind is PrintKind.LABEL:
            pages.append(layout.label(slip, job.size, label_language(slip.booked_with) or job.lang))
        else:
            pages.extend(layout.packing_list(slip, job.size, job.lang))
    if job.format is PrintFormat.PDF:
        return pdf.draw(pages)
    return zpl.draw([page for page in pages if isinstance(page, Page)], job.dpi, settings().printer_font)


async def _store(connection: AsyncConnection, document: str, part: int, content_type: str, content: bytes) -> None:
    now = datetime.now(UTC)
    made = insert(_documents).values(
        id=document,
        part=part,
        content_type=content_type,
        content=keyring().seal(content, _context(document, part)),
        made_at=now,
        expires_at=now + RETENTION,
    )
    new_values = {name: made.excluded[name] for name in ("content", "made_at", "expires_at")}
    await connection.execute(made.on_conflict_do_update(index_elements=["id", "part"], set_=new_values))


def _decrypt(row: Row[Any]) -> bytes:
    return keyring().open(bytes(row.content), _context(row.id, row.part))


def _context(document: str, part: int) -> str:
    """Return the context that the file's encryption is bound to."""
    return f"documents:{document}:{part}"

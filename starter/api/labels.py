"""The printing door: labels and packing lists, for those who pack."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from activities import labels
from activities.database import transaction
from activities.labels import pdf, zpl
from models.printing import Paper, PrintKind
from starter.api.access import Staff
from starter.api.problems import lang

router = APIRouter(prefix="/labels", tags=["labels"])

MOST = 500
"""Sheets in one file."""


class Printing(BaseModel):
    fulfillments: Annotated[list[str], Field(min_length=1, max_length=MOST)]
    kind: PrintKind = PrintKind.LABEL
    paper: Paper = Paper.HIGH
    format: Literal["pdf", "zpl"] = "pdf"
    dpi: Literal[203, 300] = 203
    """Of ZPL."""


@router.post("", summary="Print labels or packing lists into one file", response_class=Response)
async def print_sheets(body: Printing, request: Request, visitor: Staff) -> Response:
    """In the order asked for; each printing is noted, and a label printed before says how often."""
    speak = lang(request)
    async with transaction() as connection:
        sheets = await labels.sheets(connection, body.fulfillments, body.kind, visitor.name, speak)
    draw: Callable[[], bytes]
    if body.kind is PrintKind.PACKING_LIST:
        media, draw = "application/pdf", lambda: pdf.packing_lists(sheets, speak)
    elif body.format == "zpl":
        media, draw = "application/zpl", lambda: zpl.labels(sheets, body.paper, speak, dpi=body.dpi)
    else:
        media, draw = "application/pdf", lambda: pdf.labels(sheets, body.paper, speak)
    return Response(await asyncio.to_thread(draw), media_type=media)

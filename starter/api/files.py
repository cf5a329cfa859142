"""The door for sheets: levels, catalogue and locations come and go as CSV or XLSX."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from activities.files import imports
from activities.files.imports import KINDS, Act, Fault, Kind, Report
from activities.kit import spreadsheets
from activities.kit.database import transaction
from activities.kit.spreadsheets import CONTENT_TYPES, MAX_BYTES, Format, UnreadableFile
from models.i18n import t
from starter import dispatcher
from starter.api.authentication import Staff
from starter.api.problems import Problem, lang
from starter.api.webhooks import at_most

router = APIRouter(prefix="/files", tags=["files"])

_FORM_OVERHEAD = 64 * 1024
_FILE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "text/csv": _FILE,
            CONTENT_TYPES["xlsx"]: _FILE,
            "multipart/form-data": {"schema": {"type": "object", "properties": {"file": _FILE["schema"]}}},
        },
    }
}


class Error(BaseModel):
    """What is wrong with a cell, or, in row 1, with a column."""

    row: int
    field: str
    column: str
    """The field's head, in the language of ``Accept-Language``."""
    value: str
    message: str


class Imported(BaseModel):
    rows: int
    applied: int
    errors: list[Error]
    more: int
    """Errors beyond ``errors``."""


@router.post("/{kind}", summary="Import a sheet: all of it, or nothing", openapi_extra=_BODY)
async def load(
    kind: str,
    request: Request,
    visitor: Staff,
    partial: Annotated[bool, Query(description="Apply the rows that are well, and tell of the others.")] = False,
    check: Annotated[bool, Query(description="Tell what is wrong, and apply nothing.")] = False,
    name: Annotated[str, Query(max_length=100, description="The file's, for the ledger.")] = "",
    key: Annotated[str | None, Header(alias="Idempotency-Key")] = None,
) -> Imported:
    """CSV (UTF-8 or GB18030; comma, semicolon or tab) or XLSX, as the body or as the file of a form. The heads are
    those of the export, in English or Chinese. Columns that are left out stay as they are. Refused with 422 and every
    error where a row is not well, unless ``partial`` or ``check``."""
    chosen = _kind(kind)
    content, sent = await _file(request)
    try:
        told = await asyncio.to_thread(lambda: imports.understand(chosen, spreadsheets.read(content)))
    except UnreadableFile as error:
        raise Problem(422, error.message, error.params) from None
    act = Act(request_id=key or str(uuid4()), actor=visitor.name, file=name or sent)
    async with transaction() as connection:
        report = await imports.load(connection, told, act, partial=partial, check=check)
    dispatcher.wake()
    answer = _answer(report, chosen, lang(request))
    if report.errors and not (partial or check):
        raise Problem(422, "sheet.refused", {"errors": len(report.errors) + report.more}, **answer.model_dump())
    return answer


@router.get("/{kind}", summary="Export a sheet", response_class=Response, responses={200: {"content": {}}})
async def dump(kind: str, request: Request, visitor: Staff, format: Format = "csv") -> Response:
    """What is exported may be imported again."""
    chosen, told = _kind(kind), lang(request)
    async with transaction() as connection:
        rows = await imports.dump(connection, chosen)
    heads = [t(f"column.{field}", told) for field in chosen.line.model_fields]
    cells = ([_cell(value, told) for value in row] for row in rows)
    content = await asyncio.to_thread(spreadsheets.write, heads, cells, format)
    disposition = f'attachment; filename="{kind}.{format}"'
    return Response(content, media_type=CONTENT_TYPES[format], headers={"Content-Disposition": disposition})


def _kind(name: str) -> Kind[Any]:
    if name not in KINDS:
        raise Problem(404, "sheet.no_kind", {"kinds": ", ".join(KINDS)})
    return KINDS[name]


async def _file(request: Request) -> tuple[bytes, str]:
    """What was sent, and the name it has in a form."""
    content = await at_most(MAX_BYTES + _FORM_OVERHEAD, request)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return content, ""

    async def again() -> AsyncGenerator[bytes, None]:
        yield content

    try:
        form = await MultiPartParser(request.headers, again(), max_files=1, max_fields=10).parse()
    except (MultiPartException, KeyError):
        raise Problem(422, "sheet.no_file") from None
    try:
        for part in form.values():
            if isinstance(part, UploadFile):
                return await part.read(), (part.filename or "")[:100]
    finally:
        await form.close()
    raise Problem(422, "sheet.no_file")


def _answer(report: Report, kind: Kind[Any], told: str) -> Imported:
    return Imported(
        **report.model_dump(exclude={"errors"}), errors=[_error(each, kind, told) for each in report.errors]
    )


def _error(fault: Fault, kind: Kind[Any], told: str) -> Error:
    column = t(f"column.{fault.field}", told) if fault.field in kind.line.model_fields else fault.field
    message = t(fault.message, told, **fault.params)
    return Error(row=fault.row, field=fault.field, column=column, value=fault.value, message=message)


def _cell(value: Any, told: str) -> Any:
    """As a person writes it."""
    match value:
        case bool():
            return t("sheet.yes" if value else "sheet.no", told)
        case list():
            return ", ".join(value)
        case _:
            return value

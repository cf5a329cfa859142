"""Import and export of stock, catalogue and planning as CSV or XLSX."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from activities.files import engine
from activities.files.engine import SHEETS, ImportReport
from activities.kit import spreadsheets
from activities.kit.database import transaction
from activities.kit.sheets import CellError, ImportContext, SheetDefinition
from activities.kit.spreadsheets import CONTENT_TYPES, MAX_BYTES, Format, UnreadableFile
from models.i18n import t
from starter import dispatcher
from starter.api.authentication import Staff
from starter.api.problems import Problem, lang

router = APIRouter(prefix="/files", tags=["files"])

MAX_BODY = MAX_BYTES + 64 * 1024
"""A file of the largest size within a form, in bytes."""
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
    """The field's heading, in the language of ``Accept-Language``."""
    value: str
    message: str


class Imported(BaseModel):
    rows: int
    applied: int
    errors: list[Error]
    more: int
    """Errors beyond ``errors``."""


@router.post("/{kind}", summary="Import a sheet: all rows or none", openapi_extra=_BODY)
async def load(
    kind: str,
    request: Request,
    principal: Staff,
    partial: Annotated[bool, Query(description="Apply the valid rows and report the errors of the others.")] = False,
    check: Annotated[bool, Query(description="Report the errors and apply nothing.")] = False,
    name: Annotated[str, Query(max_length=100, description="The name of the file, for the ledger.")] = "",
    key: Annotated[str | None, Header(alias="Idempotency-Key")] = None,
) -> Imported:
    """CSV (UTF-8 or GB18030; comma, semicolon or tab) or XLSX, as the body or as the file of a form. The headings are
    those of the export, in English or Chinese. Columns that are left out keep their values. If a row is invalid, the
    import is refused with 422 and every error, unless ``partial`` or ``check`` is set."""
    definition = _definition(kind)
    content, filename = await _file(request)
    try:
        parsed = await asyncio.to_thread(lambda: engine.parse(definition, spreadsheets.read(content)))
    except UnreadableFile as error:
        raise Problem(422, error.message, error.params) from None
    context = ImportContext(request_id=key or str(uuid4()), actor=principal.name, file=name or filename)
    async with transaction() as connection:
        report = await engine.run_import(connection, parsed, context, partial=partial, check=check)
    dispatcher.wake()
    response = _response(report, definition, lang(request))
    if report.errors and not (partial or check):
        raise Problem(422, "sheet.refused", {"errors": len(report.errors) + report.more}, **response.model_dump())
    return response


@router.get("/{kind}", summary="Export a sheet", response_class=Response, responses={200: {"content": {}}})
async def dump(kind: str, request: Request, principal: Staff, format: Format = "csv") -> Response:
    """An exported sheet can be imported again."""
    definition, language = _definition(kind), lang(request)
    async with transaction() as connection:
        rows = await engine.export(connection, definition)
    headings = [t(f"column.{field}", language) for field in definition.line.model_fields]
    cells = ([_cell(value, language) for value in row] for row in rows)
    content = await asyncio.to_thread(spreadsheets.write, headings, cells, format)
    disposition = f'attachment; filename="{kind}.{format}"'
    return Response(content, media_type=CONTENT_TYPES[format], headers={"Content-Disposition": disposition})


def _definition(kind: str) -> SheetDefinition[Any]:
    if kind not in SHEETS:
        raise Problem(404, "sheet.no_kind", {"kinds": ", ".join(SHEETS)})
    return SHEETS[kind]


async def _file(request: Request) -> tuple[bytes, str]:
    """Return the content, and the file name if it was sent in a form."""
    content = await request.body()
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return content, ""

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield content

    try:
        form = await MultiPartParser(request.headers, chunks(), max_files=1, max_fields=10).parse()
    except (MultiPartException, KeyError):
        raise Problem(422, "sheet.no_file") from None
    try:
        for part in form.values():
            if isinstance(part, UploadFile):
                return await part.read(), (part.filename or "")[:100]
    finally:
        await form.close()
    raise Problem(422, "sheet.no_file")


def _response(report: ImportReport, definition: SheetDefinition[Any], language: str) -> Imported:
    errors = [_error(each, definition, language) for each in report.errors]
    return Imported(**report.model_dump(exclude={"errors"}), errors=errors)


def _error(error: CellError, definition: SheetDefinition[Any], language: str) -> Error:
    known = error.field in definition.line.model_fields
    column = t(f"column.{error.field}", language) if known else error.field
    message = t(error.message, language, **error.params)
    return Error(row=error.row, field=error.field, column=column, value=error.value, message=message)


def _cell(value: Any, language: str) -> Any:
    """Return a value as people write it in a sheet."""
    match value:
        case bool():
            return t("sheet.yes" if value else "sheet.no", language)
        case list():
            return ", ".join(value)
        case _:
            return value

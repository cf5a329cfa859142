"""Errors as problem details (RFC 9457), in the language of whoever asked; no value that was sent is echoed."""

from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from activities.kit.database import DatabaseError, DatabaseUnavailable, DataError, IntegrityError, is_permanent
from activities.kit.errors import InvalidFields, InvalidInput, validation_message
from models.i18n import negotiate, t
from models.vault import SealBroken

log = structlog.get_logger()

_KINDS = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "not_allowed",
    409: "conflict",
    413: "too_large",
    422: "invalid",
    429: "too_many",
    503: "unavailable",
}

SOON = {"Retry-After": "2"}


class ProblemDetails(BaseModel):
    """RFC 9457, in the language of ``Accept-Language``."""

    type: str
    title: str
    status: int
    detail: str = ""
    errors: list[dict[str, str]] = Field(default=[], description="Of bad input: each ``field`` and its ``message``.")
    supported_actions: list[str] = Field(default=[], description="Of a refused act: what may be asked instead.")


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {"application/problem+json": {"schema": ProblemDetails.model_json_schema()}},
    }
    for status, text in (("4XX", "Refused, and why"), (503, "Not just now: try again after ``Retry-After`` seconds"))
}


class Problem(HTTPException):
    """An answer below 2xx: ``detail`` is a message key of the catalogue with its ``params``."""

    def __init__(
        self,
        status: int,
        detail: str = "",
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(status, detail, headers)
        self.status = status
        self.params = params or {}
        self.more = more


def lang(request: Request) -> str:
    return negotiate(request.headers.get("accept-language"))


def answer(
    request: Request, status: int, detail: str = "", headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    kind = _KINDS.get(status, "error")
    chosen = lang(request)
    body = {"type": f"urn:hengdan:problem:{kind}", "title": t(f"problem.{kind}", chosen), "status": status}
    if detail:
        body["detail"] = detail
    return JSONResponse(
        body | more,
        status,
        headers={"Content-Language": chosen, **(headers or {})},
        media_type="application/problem+json",
    )


def _fields(error: RequestValidationError | ValidationError, speak: str) -> list[dict[str, str]]:
    places = ("body", "query", "path", "header")
    return [
        {
            "field": ".".join(str(part) for part in each["loc"] if part not in places) or "body",
            "message": t(validation_message(each), speak),
        }
        for each in error.errors()
    ]


def install(app: FastAPI) -> None:
    """Every error of the application becomes a problem."""

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> JSONResponse:
        detail = t(error.detail, lang(request), **error.params)
        return answer(request, error.status, detail, error.headers, **error.more)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(request, error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ValidationError)
    async def invalid(request: Request, error: RequestValidationError | ValidationError) -> JSONResponse:
        fields = _fields(error, lang(request))
        detail = "; ".join(f"{each['field']}: {each['message']}" for each in fields)
        return answer(request, 422, detail, errors=fields)

    @app.exception_handler(InvalidInput)
    @app.exception_handler(InvalidFields)
    async def invalid_input(request: Request, error: InvalidInput | InvalidFields) -> JSONResponse:
        faults = error.faults if isinstance(error, InvalidFields) else [error]
        fields = [{"field": each.field, "message": t(each.message, lang(request))} for each in faults]
        detail = "; ".join(f"{each['field']}: {each['message']}" for each in fields)
        return answer(request, 422, detail, errors=fields)

    @app.exception_handler(SealBroken)
    async def seal_broken(request: Request, error: SealBroken) -> JSONResponse:
        return answer(request, 409, t("problem.value_broken", lang(request), value=str(error)))

    async def unavailable(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, DatabaseError) and is_permanent(error):
            return answer(request, 422, t("error.not_storable", lang(request), error=type(error).__name__))
        log.warning("api.unavailable", error=type(error).__name__)
        return answer(request, 503, headers=SOON)

    for kind in (*DatabaseUnavailable, DataError, IntegrityError, OSError):
        app.add_exception_handler(kind, unavailable)

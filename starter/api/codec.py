"""The codec server: decrypts payloads for the Temporal UI and command line.

The command line sends its key with ``--codec-auth``. The UI, set to "include cross-origin credentials", sends the
cookie that ``/codec/login`` sets. The UI of ``hengdan up`` cannot be set to that from outside: it calls a path of its
own, which decrypts for the eight hours after a login, on the same machine alone. Protocol: POST of
``{"payloads": [...]}`` in proto JSON, answered likewise.
"""

import json
import secrets
from collections.abc import Sequence
from time import monotonic
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from google.protobuf.json_format import MessageToJson, Parse, ParseError
from temporalio.api.common.v1 import Payload, Payloads

from activities.accounts.api_keys import Principal, find_principal
from models.api_keys import Scope
from models.i18n import t
from models.settings import settings
from models.vault import SealBroken, keyring
from starter.api.authentication import KeyCheck
from starter.api.problems import Problem, lang
from starter.api.webhooks import RAW, Body
from workers.cluster import orders_url
from workers.codec import SealingCodec

router = APIRouter(prefix="/codec", tags=["codec"])
log = structlog.get_logger()

COOKIE = "hengdan_codec"
LOGIN_SECONDS = 8 * 3600

_logins: dict[str, float] = {}
"""When each login of this process ends, by the key, for the UI that cannot send a cookie."""

_KEY = KeyCheck(Scope.STAFF, cookie=COOKIE)
Keyholder = Annotated[Principal, Depends(_KEY)]


def _payloads(raw: bytes) -> Payloads:
    try:
        return Parse(raw, Payloads())
    except ParseError:
        raise Problem(400, "problem.bad_payloads") from None


def _answer(payloads: list[object]) -> Response:
    return Response(MessageToJson(Payloads(payloads=payloads)), media_type="application/json")  # type: ignore[arg-type]


async def _open(payloads: Sequence[Payload], actor: str) -> Response:
    try:
        opened = await SealingCodec(keyring()).decode(payloads)
    except SealBroken:
        raise Problem(400, "problem.seal_broken") from None
    log.info("codec.decode", actor=actor, payloads=len(opened))
    return _answer(list(opened))


@router.post("/decode", summary="Decrypt payloads", openapi_extra=RAW)
async def decode(raw: Body, principal: Keyholder) -> Response:
    return await _open(_payloads(raw).payloads, principal.name)


@router.post("/encode", summary="Encrypt payloads", openapi_extra=RAW)
async def encode(raw: Body, principal: Keyholder) -> Response:
    return _answer(list(await SealingCodec(keyring()).encode(_payloads(raw).payloads)))


@router.get("/login", response_class=HTMLResponse, summary="Form to log in to the codec with a key")
async def login_page(request: Request, done: bool = False) -> str:
    language = lang(request)
    head = f"<!doctype html><html lang={language}><meta charset=utf-8><title>Hengdan 恒单</title>"
    if done:
        namespace = request.app.state.temporal.namespace
        urls = [orders_url(origin, namespace) for origin in settings().ui_origins]
        links = "".join(f'<p><a href="{url}">{url}</a></p>' for url in urls)
        return f"{head}<p>{t('codec.done', language)}</p>{links}"
    return (
        f"{head}<form method=post><label>{t('codec.key', language)} "
        f"<input name=key type=password autocomplete=off required></label> "
        f"<button>{t('codec.open', language)}</button></form>"
    )


@router.post("/login", summary="Log in to the codec")
async def login(request: Request, key: Annotated[str, Form()]) -> Response:
    await _KEY.check(key)
    _logins.pop(key, None)
    _logins[key] = monotonic() + LOGIN_SECONDS
    answer = RedirectResponse("/codec/login?done=1", 303)
    answer.set_cookie(
        COOKIE,
        key,
        httponly=True,
        secure=request.url.scheme == "https",
        samesite="strict",
        max_age=LOGIN_SECONDS,
        path="/codec",
    )
    return answer


async def _reader(request: Request, token: str) -> str | None:
    """Return who logged in last, if the login still counts. Raise a 404 for a wrong token or another machine.

    A login ends with its key.
    """
    expected = settings().codec_token
    local = request.client is not None and request.client.host in {"127.0.0.1", "::1"}
    if expected is None or not local or not secrets.compare_digest(token, expected.get_secret_value()):
        raise Problem(404)
    for key, until in reversed(_logins.items()):
        if until > monotonic() and (principal := await find_principal(key)) is not None:
            return principal.name
    return None


@router.post("/ui/{token}/decode", summary="Decrypt payloads for the UI of `hengdan up`", openapi_extra=RAW)
async def decode_for_ui(token: str, raw: Body, request: Request) -> Response:
    """Without a login each payload says where to log in, in place of its content."""
    reader, payloads = await _reader(request, token), _payloads(raw).payloads
    if reader is None:
        hint = json.dumps(t("codec.sealed", lang(request), url=f"{request.base_url}codec/login"), ensure_ascii=False)
        return _answer([Payload(metadata={"encoding": b"json/plain"}, data=hint.encode())] * len(payloads))
    return await _open(payloads, reader)


@router.post("/ui/{token}/encode", summary="Encrypt payloads for the UI of `hengdan up`", openapi_extra=RAW)
async def encode_for_ui(token: str, raw: Body, request: Request) -> Response:
    if await _reader(request, token) is None:
        raise Problem(401, "problem.unauthorized.detail")
    return _answer(list(await SealingCodec(keyring()).encode(_payloads(raw).payloads)))

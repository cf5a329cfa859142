"""API keys. A holder manages keys whose scopes it has itself: nobody grants more than they may."""

from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from activities.accounts import api_keys
from activities.accounts.api_keys import Principal
from models.api_keys import Scope
from starter.api.authentication import Staff
from starter.api.problems import Problem

router = APIRouter(prefix="/keys", tags=["keys"])

_NAME = r"^[A-Za-z0-9_.@\-]{1,64}$"
Name = Annotated[str, Path(pattern=_NAME)]


class KeyView(BaseModel):
    name: str
    scopes: list[Scope]
    created_at: datetime
    revoked_at: datetime | None


class NewKey(BaseModel):
    name: Annotated[str, Field(pattern=_NAME, description="Recorded as the actor.")]
    scopes: Annotated[list[Scope], Field(min_length=1)]


class ShownKey(BaseModel):
    """A key, shown this once: only its hash is stored."""

    name: str
    scopes: list[Scope]
    key: str


@router.get("", summary="API keys, without the keys themselves")
async def list_keys(principal: Staff) -> list[KeyView]:
    return [KeyView(**row._mapping) for row in await api_keys.list_keys()]


@router.post("", status_code=201, summary="Create an API key")
async def create_key(body: NewKey, principal: Staff) -> ShownKey:
    _must_have(principal, body.scopes)
    if any(row.name == body.name and row.revoked_at is None for row in await api_keys.list_keys()):
        raise Problem(409, "problem.key_exists", {"name": body.name})
    return ShownKey(name=body.name, scopes=body.scopes, key=await api_keys.create_key(body.name, body.scopes))


@router.post("/{name}/rotate", summary="Replace an API key; the old one no longer counts")
async def rotate_key(name: Name, principal: Staff) -> ShownKey:
    row = await _get(name)
    _must_have(principal, scopes := [Scope(each) for each in row.scopes])
    return ShownKey(name=name, scopes=scopes, key=await api_keys.create_key(name, scopes))


@router.delete("/{name}", status_code=204, summary="Revoke an API key")
async def revoke_key(name: Name, principal: Staff) -> None:
    _must_have(principal, [Scope(each) for each in (await _get(name)).scopes])
    await api_keys.revoke_key(name)


async def _get(name: str) -> Any:
    for row in await api_keys.list_keys():
        if row.name == name and row.revoked_at is None:
            return row
    raise Problem(404, "problem.no_key", {"name": name})


def _must_have(principal: Principal, scopes: Collection[Scope]) -> None:
    """Raise a 403 where the holder lacks one of these scopes."""
    if missing := [each for each in scopes if not principal.may(each)]:
        raise Problem(403, "problem.forbidden.detail", {"scope": ", ".join(missing)})

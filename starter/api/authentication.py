"""API keys: ``Authorization: Bearer hd_...`` with a scope that the route requires."""

from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import Annotated

import structlog
from fastapi import Depends, Request, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.routing import BaseRoute

from activities.accounts.api_keys import Principal, find_principal
from models.api_keys import Scope
from starter.api.problems import Problem

log = structlog.get_logger()

_bearer = HTTPBearer(auto_error=False, scheme_name="API key", description="Created by `hengdan up` or an operator.")

Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
"""Documents the key in OpenAPI; ``KeyCheck`` reads it from the request."""


class KeyCheck:
    """A dependency that authenticates a key with one of the scopes. Raises 401 or 403.

    ``cookie`` may hold the key of a browser. The check needs the headers only: it runs before the body is read.
    """

    def __init__(self, *scopes: Scope, cookie: str = "") -> None:
        self._scopes = scopes
        self._cookie = cookie

    async def __call__(self, request: Request, credentials: Credentials = None) -> Principal:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = request.cookies.get(self._cookie, "")
        return await self.check(key)

    async def check(self, key: str) -> Principal:
        """Return the holder of a key. Raises 401 or 403."""
        principal = await find_principal(key) if key else None
        if principal is None:
            raise Problem(401, "problem.unauthorized.detail", headers={"WWW-Authenticate": "Bearer"})
        if not any(principal.may(each) for each in self._scopes):
            raise Problem(403, "problem.forbidden.detail", {"scope": ", ".join(self._scopes)})
        return principal


SEARCHES_PER_MINUTE = 30
"""Uses of encrypted fields by one key under one scope, in each API process."""
_uses: dict[tuple[str, Scope], deque[float]] = {}


def limit_use(principal: Principal, scope: Scope = Scope.SEARCH) -> None:
    """Count a use of an encrypted field. Raises 403 without the scope and 429 beyond the limit."""
    if not principal.may(scope):
        raise Problem(403, "problem.forbidden.detail", {"scope": scope.value})
    recent = _uses.setdefault((principal.name, scope), deque(maxlen=SEARCHES_PER_MINUTE))
    now = monotonic()
    if len(recent) == SEARCHES_PER_MINUTE and now - recent[0] < 60:
        log.warning(f"{scope}.limited", actor=principal.name)
        raise Problem(429, "problem.too_many_searches", {"most": SEARCHES_PER_MINUTE}, {"Retry-After": "60"})
    recent.append(now)


def key_checks(route: BaseRoute) -> Iterator[KeyCheck]:
    """Return the key checks among a route's dependencies."""
    for each in route.dependant.dependencies if isinstance(route, APIRoute) else ():
        if isinstance(each.call, KeyCheck):
            yield each.call


Staff = Annotated[Principal, Depends(KeyCheck(Scope.STAFF))]
Reader = Annotated[Principal, Depends(KeyCheck(Scope.READ))]
Storekeeper = Annotated[Principal, Depends(KeyCheck(Scope.WAREHOUSE))]
Printer = Annotated[Principal, Depends(KeyCheck(Scope.STAFF, Scope.WAREHOUSE))]

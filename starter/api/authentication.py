"""API keys: ``Authorization: Bearer hd_...`` with a scope that the route requires."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from activities.accounts.api_keys import Principal, find_principal
from models.api_keys import Scope
from starter.api.problems import Problem

_bearer = HTTPBearer(auto_error=False, scheme_name="API key", description="Created by `hengdan up` or an operator.")


def scope(*needed: Scope) -> Callable[..., Awaitable[Principal]]:
    """Return a dependency that authenticates a key with one of the scopes. Raises 401 or 403."""

    async def check(credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> Principal:
        principal = await find_principal(credentials.credentials) if credentials else None
        if principal is None:
            raise Problem(401, "problem.unauthorized.detail", headers={"WWW-Authenticate": "Bearer"})
        if not any(principal.may(each) for each in needed):
            raise Problem(403, "problem.forbidden.detail", {"scope": ", ".join(needed)})
        return principal

    return check


Staff = Annotated[Principal, Depends(scope(Scope.STAFF))]
Reader = Annotated[Principal, Depends(scope(Scope.READ))]
Storekeeper = Annotated[Principal, Depends(scope(Scope.WAREHOUSE))]
Printer = Annotated[Principal, Depends(scope(Scope.STAFF, Scope.WAREHOUSE))]

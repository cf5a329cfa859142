"""Who comes in: ``Authorization: Bearer hd_...`` with the scope a door asks for."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from activities.accounts.api_keys import Principal, find_principal
from models.api_keys import Scope
from starter.api.problems import Problem

_bearer = HTTPBearer(auto_error=False, scheme_name="API key", description="A key made by `hengdan up` or an operator.")


def scope(*needed: Scope) -> Callable[..., Awaitable[Principal]]:
    """A dependency: the principal, if the key is known and has one of the scopes."""

    async def check(given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> Principal:
        found = await find_principal(given.credentials) if given else None
        if found is None:
            raise Problem(401, "problem.unauthorized.detail", headers={"WWW-Authenticate": "Bearer"})
        if not any(found.may(each) for each in needed):
            raise Problem(403, "problem.forbidden.detail", {"scope": ", ".join(needed)})
        return found

    return check


Staff = Annotated[Principal, Depends(scope(Scope.STAFF))]
Reader = Annotated[Principal, Depends(scope(Scope.READ))]
Storekeeper = Annotated[Principal, Depends(scope(Scope.WAREHOUSE))]
Printer = Annotated[Principal, Depends(scope(Scope.STAFF, Scope.WAREHOUSE))]

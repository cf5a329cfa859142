"""The sandbox application: discovers its twins and mounts each at ``/{name}``."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType

import httpx
from fastapi import FastAPI

from starter.sandbox import carriers, channels, faults


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open ``app.state.http``, the client with which twins call Hengdan."""
    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=200)) as client:
        app.state.http = client
        yield


def twins() -> Iterator[tuple[str, ModuleType]]:
    """Yield name and module of every twin; each module offers ``router: APIRouter``."""
    for package in (channels, carriers):
        for found in iter_modules(package.__path__):
            yield found.name, import_module(f"{package.__name__}.{found.name}")
    for name in ("warehouse", "qimen"):
        if find_spec(f"starter.sandbox.{name}"):
            yield name, import_module(f"starter.sandbox.{name}")


def create_app() -> FastAPI:
    app = FastAPI(title="Hengdan sandbox", lifespan=_lifespan)
    names = []
    for name, module in twins():
        app.include_router(module.router, prefix=f"/{name}", tags=[name])
        names.append(name)
    app.include_router(faults.router, prefix="/_faults", tags=["faults"])

    @app.get("/health")
    async def health() -> dict[str, list[str]]:
        return {"systems": names}

    return app

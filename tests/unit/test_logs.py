"""Logs of libraries hold no texts of errors; large logs are moved aside."""

import json
import logging
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import IntegrityError
from temporalio.exceptions import ApplicationError

from starter.logs import AsJson, WithoutTexts
from workers.embedded import children

PERSON = "王小明 13800138000"


def _error() -> IntegrityError:
    """Return an error as PostgreSQL words it, raised while another was handled."""
    detail = f"DETAIL: Key (name)=({PERSON}) exists."
    text = f"duplicate key\n{detail}\nCONTEXT: unnamed portal with parameters: $1 = '{PERSON}'"
    try:
        try:
            raise psycopg.errors.UniqueViolation(text)
        except psycopg.Error as error:
            raise IntegrityError("INSERT", {"name": PERSON}, error) from error
    except IntegrityError as error:
        return error


def record(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("temporalio", logging.WARNING, "", 1, message, args, info)


@pytest.mark.parametrize(
    "made",
    [
        record("failed", error=_error()),
        record("failed: %s", _error()),
        record(f"Task exception was never retrieved\nfuture: {_error()!r}", error=_error()),
    ],
)
def test_error_is_logged_by_type_and_place_without_its_text(made: logging.LogRecord) -> None:
    text = WithoutTexts("%(levelname)s %(message)s").format(made)
    assert PERSON not in text
    assert "DETAIL" not in text
    assert "IntegrityError" in text
    if made.exc_info:
        assert "UniqueViolation at" in text
        assert "test_logs.py:" in text


def test_large_log_is_moved_aside_and_writing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "MAX_LOG", 10)
    (tmp_path / "small.log").write_bytes(b"small")
    with (tmp_path / "api.log").open("ab", buffering=0) as log:
        log.write(b"first line\n")
        children.rotate(tmp_path.glob("*.log"))
        log.write(b"next\n")
        children.rotate(tmp_path.glob("*.log"))
    assert (tmp_path / "api.log").read_bytes() == b"next\n"
    assert (tmp_path / "api.log.1").read_bytes() == b"first line\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["api.log", "api.log.1", "small.log"]


def test_record_of_a_library_is_one_line_of_json_without_texts_of_errors() -> None:
    failed = json.loads(AsJson().format(record("failed\nmore", error=_error())))
    assert failed["event"] == "failed"
    assert (failed["level"], failed["logger"]) == ("warning", "temporalio")
    assert "IntegrityError at" in failed["error"]
    assert "UniqueViolation at" in failed["error"]
    assert PERSON not in str(failed)


@pytest.mark.parametrize("formatter", [AsJson(), WithoutTexts()])
def test_refusal_is_logged_by_its_code_without_a_place(formatter: logging.Formatter) -> None:
    try:
        raise ApplicationError(PERSON, type="refused")
    except ApplicationError as error:
        text = formatter.format(record("Completing activity as failed", error=error))
    assert "Completing activity as failed: refused" in text
    assert " at " not in text
    assert PERSON not in text

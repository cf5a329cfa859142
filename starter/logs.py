"""Structured logs, one line an event. Events hold ids and counts, never personal data. Logging never raises.

With ``HENGDAN_LOG_FORMAT=json`` every line is a JSON object with ``timestamp``, ``level`` and ``event``: also those of
libraries, of Temporal's core, of warnings, and of an error that ends the process.
"""

import json
import logging
import sys
from contextlib import suppress
from copy import copy
from datetime import UTC, datetime
from importlib.metadata import version
from traceback import extract_tb
from typing import Any, TextIO

import structlog
from temporalio.exceptions import ApplicationError

from models.settings import settings


def configure() -> None:
    """Log to standard error, as lines for people or as JSON for machines."""
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if settings().log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=_print_logger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        AsJson() if settings().log_format == "json" else WithoutTexts("%(asctime)s %(levelname)s %(name)s %(message)s")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_end


def log_start(process: str) -> None:
    """Log that a process serves, with its version and settings, without secrets."""
    structlog.get_logger().info(f"{process}.started", version=version("hengdan"), settings=settings().without_secrets())


def _log_end(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("hengdan").critical("ended by an error", exc_info=(kind, error, traceback))


class WithoutTexts(logging.Formatter):
    """Formats the records of libraries without the texts of errors: those of a database quote rows and values.

    An activity or workflow that refuses by an ``ApplicationError`` is no fault: its code is logged, not its place.
    """

    def format(self, record: logging.LogRecord) -> str:
        safe = copy(record)
        if isinstance(safe.args, tuple):
            safe.args = tuple(type(each).__name__ if isinstance(each, BaseException) else each for each in safe.args)
        message = safe.getMessage()
        if safe.exc_info and isinstance(safe.exc_info[1], ApplicationError):
            message = f"{message.partition(chr(10))[0]}: {safe.exc_info[1].type or 'refused'}"
            safe.exc_info = None
        safe.msg, safe.args = message.partition("\n")[0] if safe.exc_info else message, None
        safe.exc_text = None
        return super().format(safe)

    def formatException(self, ei: Any) -> str:
        """Return the type and place of an error and of each of its causes."""
        lines, error = [], ei[1]
        while error is not None:
            lines.append(f"{type(error).__name__} at {place(error) if error.__traceback__ else '?'}")
            error = error.__cause__ or error.__context__
        return "\n".join(lines)


class AsJson(WithoutTexts):
    """Formats the records of libraries as our own events, each as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        message, *places = super().format(record).split("\n")
        event = {"event": message, "logger": record.name, "level": record.levelname.lower()}
        if record.exc_info and places:
            event["error"] = "; ".join(places)
        elif places:
            event["event"] = "\n".join((message, *places))
        event["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat()
        return json.dumps(event, ensure_ascii=False)


class _Unfailing:
    """A text stream that drops what it cannot write: on a full disk, or once it is closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def _print_logger(*_: Any) -> structlog.PrintLogger:
    return structlog.PrintLogger(_Unfailing(sys.stderr))  # type: ignore[arg-type]


def place(error: BaseException) -> str:
    """Return the file and line that raised an error; unlike its text, they hold no personal data."""
    last = extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"

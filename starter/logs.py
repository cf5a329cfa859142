"""Structured logs, one line an event. Events hold ids and counts, never personal data. Logging never raises."""

import logging
import sys
from contextlib import suppress
from copy import copy
from traceback import extract_tb
from typing import Any, TextIO

import structlog

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
    handler.setFormatter(WithoutTexts("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class WithoutTexts(logging.Formatter):
    """Formats the records of libraries without the texts of errors: those of a database quote rows and values."""

    def format(self, record: logging.LogRecord) -> str:
        safe = copy(record)
        if isinstance(safe.args, tuple):
            safe.args = tuple(type(each).__name__ if isinstance(each, BaseException) else each for each in safe.args)
        message = safe.getMessage()
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

"""The command line, run in this process."""

import asyncio
import re
from dataclasses import dataclass

import pytest

from starter.cli import main
from starter.cli.api_client import ExitCode

FAILURES = set(ExitCode) - {ExitCode.FAILED}


@dataclass
class Result:
    status: int
    out: str
    err: str


class Commands:
    """Runs ``hengdan ...`` in a thread: the API may run in the event loop of the test."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> Result:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(words)
        printed = self._capsys.readouterr()
        return Result(int(ended.value.code or 0), printed.out, printed.err)

    async def run(self, *words: str) -> Result:
        return await asyncio.to_thread(self, *words)

    async def ok(self, *words: str) -> str:
        """Run a command that succeeds; return its output, whose texts are complete."""
        result = await self.run(*words)
        assert result.status == 0, result.err
        assert not re.search(r"\{\w+\}|\bcli\.", result.out), result.out
        return result.out

    async def refused(self, *words: str) -> str:
        """Run a command that fails; return its one line of error."""
        result = await self.run(*words)
        assert (result.status in FAILURES, result.out, result.err.count("\n")) == (True, "", 1), result
        return result.err
